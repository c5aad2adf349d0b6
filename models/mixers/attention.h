#pragma once

#include <memory>

#include "models/mixer.h"

namespace kvsmith {

/// Softmax attention with grouped key/value heads (arXiv:2305.13245): MHA when there are as many as
/// query heads, MQA (arXiv:1911.02150) when there is one. Over all earlier tokens ("full"), over a
/// window and the first tokens ("sliding", arXiv:2309.17453 for the sinks), or over a mixture of
/// two layers' rows ("fused", FusedKV). A layer that reads another's rows has no key and value
/// projections unless a third one reads its own. Keys are cached after the rotation; in full
/// layers with attention_k_eq_v only values are cached and keys made from them.
std::shared_ptr<Mixer> make_attention(const ModelConfig& config,
                                      const KvGraph& graph,
                                      int64_t layer);

/// head_dim * kv_heads elements for the keys and as many for the values of each row; there are
/// min(tokens, window + sinks) rows.
int64_t attention_cache_bytes(const ModelConfig& config,
                              const KvGraph& graph,
                              int64_t layer,
                              int64_t tokens,
                              int64_t element_bytes);

MixerCost attention_cost(const ModelConfig& config,
                         const KvGraph& graph,
                         int64_t layer,
                         int64_t context);

}  // namespace kvsmith
