#pragma once

#include <memory>

#include "cache/retention.h"

namespace kvsmith {

/// Worth is the position: the newest stay.
std::unique_ptr<RetentionPolicy> make_recency(const CacheConfig& config, const LayerFacts& facts);

/// Worth is drawn for each (seed, layer, head, position), whatever the order of steps or batches.
std::unique_ptr<RetentionPolicy> make_random(const CacheConfig& config, const LayerFacts& facts);

}  // namespace kvsmith
