#pragma once

#include <cstdint>
#include <vector>

#include "cache/layer_plan.h"
#include "configs/head_gates.h"

namespace kvsmith {

/// Gives layers their budgets, from the lowest to the highest: `mean` rows a head on average,
/// `least` in any case, none above `most` (CacheConfig::allocator).
void spread_over_layers(const CacheConfig& config,
                        int64_t mean,
                        int64_t least,
                        int64_t most,
                        const std::vector<LayerPlan*>& layers);

/// Lets the heads with the highest gates keep every row and the others their sinks and recent rows
/// (DuoAttention, arXiv:2410.10819): of all layers, so many that a head keeps at most `mean` of
/// `context` rows on average.
void spread_by_gates(const HeadGatesFile& gates,
                     int64_t mean,
                     int64_t context,
                     const std::vector<LayerPlan*>& layers);

}  // namespace kvsmith
