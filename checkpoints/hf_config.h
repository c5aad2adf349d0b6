#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "configs/model_config.h"

namespace kvsmith {

/// The `config.json` with which a stock class of Hugging Face transformers computes the same
/// logits: LlamaForCausalLM, Qwen2ForCausalLM (biases on q, k, v) or Qwen3ForCausalLM (normed query
/// and key heads). Throws Error (78) for a model that no stock class holds.
nlohmann::ordered_json to_hf_config(const ModelConfig& config, int64_t bos_id, int64_t eos_id,
                                    const std::string& dtype);

/// The reverse; `where` names the file. Throws Error (78) naming a key whose value is not supported.
ModelConfig from_hf_config(const nlohmann::ordered_json& json, const std::string& where);

}  // namespace kvsmith
