#pragma once

#include <memory>

#include "models/mixer.h"

namespace kvsmith {

/// Grouped tied attention (arXiv:2505.21487): each key/value head remembers one state of head_dim
/// elements. It is the value, and its first part is the unrotated part of the key; the rest of the
/// key is rotated and shared by all heads.
std::shared_ptr<Mixer> make_gta(const ModelConfig& config, const KvGraph& graph, int64_t layer);

/// kv_heads * head_dim + qk_rope_head_dim elements a row.
int64_t gta_cache_bytes(const ModelConfig& config,
                        const KvGraph& graph,
                        int64_t layer,
                        int64_t tokens,
                        int64_t element_bytes);

MixerCost gta_cost(const ModelConfig& config, const KvGraph& graph, int64_t layer, int64_t context);

}  // namespace kvsmith
