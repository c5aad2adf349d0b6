#pragma once

#include <memory>

#include "cache/retention.h"

namespace kvsmith {

/// Policies that look at keys alone, so that attention may stay on its fused kernels.

/// Worth is minus the norm of the key (arXiv:2406.11430).
std::unique_ptr<RetentionPolicy> make_knorm(const CacheConfig& config, const LayerFacts& facts);

/// Worth is minus the cosine between a key and the mean of the normed keys that are kept
/// (arXiv:2504.15364).
std::unique_ptr<RetentionPolicy> make_keydiff(const CacheConfig& config, const LayerFacts& facts);

}  // namespace kvsmith
