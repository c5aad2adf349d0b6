#pragma once

#include <memory>

#include "models/mixer.h"

namespace kvsmith {

/// Attention to num_slots slots per key/value head, each a running average of the keys and one of
/// the values of all tokens so far; no positions. Queries are those of attention:
/// num_attention_heads, which read the slots of their key/value head.
///   gsa: gated slots (arXiv:2409.07146), a slot keeps sigmoid(x W)^(1/8) of what it holds and
///   takes
///        the rest from the token;
///   abc: bounded-memory control (arXiv:2110.02488), a token's weight is e^(x W) over the sum of
///        all so far: nothing is ever forgotten.
std::shared_ptr<Mixer> make_slot_attention(const ModelConfig& config,
                                           const KvGraph& graph,
                                           int64_t layer);

/// From the first token on: kv_heads * num_slots * 2 * head_dim * 4; abc keeps the log of each
/// slot's sum besides, num_slots * 4 a head.
int64_t slot_attention_cache_bytes(const ModelConfig& config,
                                   const KvGraph& graph,
                                   int64_t layer,
                                   int64_t tokens,
                                   int64_t element_bytes);

MixerCost slot_attention_cost(const ModelConfig& config,
                              const KvGraph& graph,
                              int64_t layer,
                              int64_t context);

}  // namespace kvsmith
