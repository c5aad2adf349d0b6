#pragma once

#include "cache/retention.h"

namespace kvsmith {

std::unique_ptr<RetentionPolicy> make_expected(const CacheConfig& config, const LayerFacts& facts);

}  // namespace kvsmith
