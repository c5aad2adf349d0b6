#pragma once

#include "configs/cache_config.h"
#include "configs/kv_graph.h"

namespace kvsmith {

/// How far what a cache holds depends on how its text was split into steps.
struct CacheExactness {
  /// Chunks of a prompt give what the whole prompt gives: nothing is dropped or rounded, and no
  /// layer reads ahead.
  bool by_chunks = false;
  /// The end of a text can be taken back besides: every layer has all rows.
  bool rewinds = false;

  static CacheExactness of(const KvGraph& graph, const CacheConfig& cache);
};

}  // namespace kvsmith
