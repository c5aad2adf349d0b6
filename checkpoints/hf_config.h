#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "configs/model_config.h"

namespace kvsmith {

/// The `config.json` with which a stock class of Hugging Face transformers computes the same
/// logits: LlamaForCausalLM, Qwen3ForCausalLM with normed query and key heads,
/// MistralForCausalLM where every layer has a window, and GraniteSWAForCausalLM for local and
/// global layers, rotary bases of their own, NoPE and sink logits. Throws Error (78) saying why
/// when no class holds the model. With attention_bias these classes have a bias on the output
/// projection too; exports hold zeros for it. (Qwen2ForCausalLM has none, but transformers 5 gives
/// it a tokenizer class of its own.)
nlohmann::ordered_json to_hf_config(const ModelConfig& config,
                                    int64_t bos_id,
                                    int64_t eos_id,
                                    const std::string& dtype);

/// The reverse; `where` names the file. Throws Error (78) naming a key whose value is not
/// supported.
ModelConfig from_hf_config(const nlohmann::ordered_json& json, const std::string& where);

}  // namespace kvsmith
