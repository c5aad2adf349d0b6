#pragma once

#include <memory>

#include "models/mixer.h"

namespace kvsmith {

/// Attention to the first num_sink_tokens tokens and to a window exactly, and linear attention to
/// all tokens between them (RAttention, arXiv:2506.15545; see ops/residual_attention.h). Both share
/// queries, keys and values; the linear part sees no positions and is added under an RMSNorm of
/// its own.
std::shared_ptr<Mixer> make_rattention(const ModelConfig& config,
                                       const KvGraph& graph,
                                       int64_t layer);

/// Per key/value head: 2 head_dim elements for each of min(tokens, sinks + window) rows, and a
/// state of 2 head_dim^2 fp32 numbers from the first token on.
int64_t rattention_cache_bytes(const ModelConfig& config,
                               const KvGraph& graph,
                               int64_t layer,
                               int64_t tokens,
                               int64_t element_bytes);

MixerCost rattention_cost(const ModelConfig& config,
                          const KvGraph& graph,
                          int64_t layer,
                          int64_t context);

}  // namespace kvsmith
