#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "configs/model_config.h"

namespace kvsmith {

/// Tokens that begin (-1: none) and end a text.
struct ExportIds {
  int64_t bos = -1;
  std::vector<int32_t> eos = {};

  /// `eos_token_id`: null, a number, or a list.
  nlohmann::ordered_json eos_json() const;
};

/// The `config.json` with which a stock class of Hugging Face transformers computes the same
/// logits: LlamaForCausalLM, Qwen3ForCausalLM with normed query and key heads,
/// MistralForCausalLM where every layer has a window or heads do not divide the width,
/// GraniteSWAForCausalLM for local and global layers, rotary bases of their own, NoPE and sink
/// logits, YoutuForCausalLM where every layer is latent, MistralLarge4ForConditionalGeneration
/// where such layers share latents, Gemma3ForCausalLM with sandwich_norm, and Gemma4ForCausalLM
/// with v_norm as well, where layers may share keys and values. Throws Error (78) saying why when
/// no class holds the model. With attention_bias these classes have a bias on the output projection
/// too; exports hold zeros for it. (Qwen2ForCausalLM has none, but transformers 5 gives it a
/// tokenizer class of its own.)
nlohmann::ordered_json to_hf_config(const ModelConfig& config,
                                    const ExportIds& ids,
                                    const std::string& dtype);

/// The `config.json` of the LCKV authors' code (github.com/whyNLP/LCKV, arXiv:2405.10637), for full
/// and sliding layers that read keys and values of any layer. Throws Error (78) saying why when
/// that cannot say what the model is.
nlohmann::ordered_json to_lckv_config(const ModelConfig& config,
                                      const ExportIds& ids,
                                      const std::string& dtype);

/// The reverse of both; `where` names the file. Throws Error (78) naming a key whose value is not
/// supported, 65 or nlohmann's exceptions (read_json_of) where it is of another type.
ModelConfig from_hf_config(const nlohmann::ordered_json& json, const std::string& where);

}  // namespace kvsmith
