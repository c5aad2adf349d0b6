#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "checkpoints/tensor_file.h"
#include "configs/kv_graph.h"
#include "configs/model_config.h"

namespace kvsmith {

/// Gemma's block in Hugging Face's layouts: `gemma4_text`, the one stock class for softmax layers
/// that share keys and values or make keys from values, and `gemma3_text`, which is only read.

bool is_gemma(const std::string& model_type);

/// Its norms have 1 + weight where ours have the weight.
bool has_offset_norms(const nlohmann::ordered_json& json);

/// What keeps a model out of Gemma4ForCausalLM; empty: nothing.
std::string gemma4_obstacle(const ModelConfig& config, const KvGraph& graph);

/// Turns a config.json of the common keys into one of `gemma4_text`.
void write_gemma4(const ModelConfig& config, nlohmann::ordered_json& json);

/// Tensors of Gemma4ForCausalLM that our model does not have, with the values that make them say
/// nothing. Where layers share keys and values, per-layer embeddings are among them: without any,
/// the class of transformers 5.23 fails on more than one token.
NamedTensors gemma4_constants(const ModelConfig& config);

/// Fills in what both layouts say beyond the sizes that all have; `where` names the file. Throws
/// Error (78) naming what is not supported.
void read_gemma(const nlohmann::ordered_json& json, ModelConfig& config, const std::string& where);

}  // namespace kvsmith
