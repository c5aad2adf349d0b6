#pragma once

#include <memory>

#include "models/mixer.h"

namespace kvsmith {

/// Gated DeltaNet (arXiv:2412.06464) as in Qwen3-Next, with separate projections and as many key
/// heads as value heads: a short convolution over [q | k | v], the gated delta rule on an fp32
/// state [head_dim, head_dim] of each head, and an output norm that SiLU(z) gates.
std::shared_ptr<Mixer> make_gated_delta(const ModelConfig& config,
                                        const KvGraph& graph,
                                        int64_t layer);

/// From the first token on: heads * head_dim^2 * 4 for the states, and (kernel - 1) * 3 * heads *
/// head_dim elements for the columns that the convolution still needs.
int64_t gated_delta_cache_bytes(const ModelConfig& config,
                                const KvGraph& graph,
                                int64_t layer,
                                int64_t tokens,
                                int64_t element_bytes);

MixerCost gated_delta_cost(const ModelConfig& config,
                           const KvGraph& graph,
                           int64_t layer,
                           int64_t context);

}  // namespace kvsmith
