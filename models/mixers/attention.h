#pragma once

#include <memory>

#include "models/mixer.h"

namespace kvsmith {

/// Softmax attention with grouped key/value heads (arXiv:2305.13245): MHA when there are as many as
/// query heads, MQA (arXiv:1911.02150) when there is one. Keys are cached after the rotation.
std::shared_ptr<Mixer> make_attention(const ModelConfig& config, int64_t layer);

/// 2 * num_key_value_heads * head_dim elements a token.
int64_t attention_cache_bytes(const ModelConfig& config,
                              int64_t layer,
                              int64_t tokens,
                              int64_t element_bytes);

}  // namespace kvsmith
