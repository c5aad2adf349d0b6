#pragma once

#include <memory>

#include "models/mixer.h"

namespace kvsmith {

/// Gated linear attention (arXiv:2312.06635): S_t = Diag(a_t) S_(t-1) + k_t^T v_t with a gate for
/// each key channel, a_t = sigmoid(x W1 W2 + b)^(1/16); the output is normed per head and gated by
/// SiLU(x W_g). The state is fp32.
std::shared_ptr<Mixer> make_gla(const ModelConfig& config, const KvGraph& graph, int64_t layer);

/// heads * head_dim^2 * 4 from the first token on.
int64_t gla_cache_bytes(const ModelConfig& config,
                        const KvGraph& graph,
                        int64_t layer,
                        int64_t tokens,
                        int64_t element_bytes);

MixerCost gla_cost(const ModelConfig& config, const KvGraph& graph, int64_t layer, int64_t context);

}  // namespace kvsmith
