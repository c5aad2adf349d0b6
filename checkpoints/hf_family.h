#pragma once

#include <string>
#include <string_view>

#include "configs/model_config.h"

namespace kvsmith {

/// A stock class of Hugging Face transformers and what it has beyond Llama's.
struct HfFamily {
  const char* architecture;
  const char* model_type;
  bool has_layers = false;  ///< layer_types
  bool has_theta = false;   ///< layer_rope_theta and sink logits (granite_swa)
  bool is_latent =
      false;  ///< sizes of latents in place of heads of keys and values (youtu, mistral_large4)
};

/// Why Llama's and Gemma 3's classes refuse a configuration, head_dim or not; empty: they do not.
std::string odd_width(const ModelConfig& config);

/// The smallest class that computes the same logits. Throws Error (78) saying why when there is
/// none.
HfFamily hf_family_of(const ModelConfig& config);

/// The architecture under which GGUF files hold the model: "llama", "qwen2" with attention_bias,
/// "qwen3" with qk_norm, "deci" (Llama with heads per layer) with layer_num_key_value_heads. Throws
/// Error (78) saying why when there is none.
std::string_view gguf_architecture_of(const ModelConfig& config);

/// Who reads whose keys, as the LCKV authors write it: "0_4s_4_4_4_5", a layer number for each
/// layer and "s" where it has a window. Throws Error (78) saying why when their class does not hold
/// the model.
std::string lckv_layer_types(const ModelConfig& config);

}  // namespace kvsmith
