#pragma once

#include <memory>

#include "cache/retention.h"

namespace kvsmith {

/// SnapKV (arXiv:2404.14469): worth of a row is the attention of the last `observation_window`
/// queries of a step of several tokens, the mean of `pooling_kernel` neighbours in the text. Only
/// such steps evict; tokens after them are appended without limit.
std::unique_ptr<RetentionPolicy> make_snapkv(const CacheConfig& config, const LayerFacts& facts);

}  // namespace kvsmith
