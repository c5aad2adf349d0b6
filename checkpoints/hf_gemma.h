#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "checkpoints/tensor_file.h"
#include "configs/kv_graph.h"
#include "configs/model_config.h"

namespace kvsmith {

/// Gemma's block in Hugging Face's layouts: `gemma4_text`, the one stock class for softmax layers
/// that share keys and values or make keys from values, and `gemma3_text`, without norms of values.

bool is_gemma(const std::string& model_type);
/// The layout for a model with this block.
const char* gemma_type_of(const ModelConfig& config);

/// `name` is a norm, and the folder of this config.json holds its weight less 1 (`gemma3_text`).
bool is_offset_norm(const nlohmann::ordered_json& json, const std::string& name);

/// What keeps a model out of both classes; empty: nothing.
std::string gemma_obstacle(const ModelConfig& config, const KvGraph& graph);

/// Turns a config.json of the common keys into one of gemma_type_of().
void write_gemma(const ModelConfig& config, nlohmann::ordered_json& json);

/// Tensors of Gemma4ForCausalLM that our model does not have, with the values that make them say
/// nothing. Where layers share keys and values, per-layer embeddings are among them: without any,
/// the class of transformers 5.23 fails on more than one token.
NamedTensors gemma_constants(const ModelConfig& config);

/// Fills in what both layouts say beyond the sizes that all have; `where` names the file. Throws
/// Error (78) naming what is not supported.
void read_gemma(const nlohmann::ordered_json& json, ModelConfig& config, const std::string& where);

}  // namespace kvsmith
