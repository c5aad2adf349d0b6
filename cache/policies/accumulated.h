#pragma once

#include <memory>

#include "cache/retention.h"

namespace kvsmith {

/// Worth of a row is the attention that it has had from all queries so far.
std::unique_ptr<RetentionPolicy> make_h2o(const CacheConfig& config, const LayerFacts& facts);

/// Worth of a row is the attention of the newest token, mean of all query heads of all layers that
/// read it.
std::unique_ptr<RetentionPolicy> make_tova(const CacheConfig& config, const LayerFacts& facts);

}  // namespace kvsmith
