#include "cache/exactness.h"

#include "cache/layer_plan.h"

namespace kvsmith {

CacheExactness CacheExactness::of(const KvGraph& graph, const CacheConfig& cache) {
  constexpr const char* kAsComputed = "model";
  CacheExactness out;
  out.by_chunks = !graph.is_cyclic() && cache.retention == "full" && cache.depth_merge == "none" &&
                  cache.codec_k == kAsComputed && cache.codec_v == kAsComputed;
  out.rewinds = out.by_chunks;
  for (int64_t layer = 0; layer < graph.size(); ++layer)
    if (graph.is_owner(layer) && (!has_rows(graph[layer]) || graph[layer].window > 0))
      out.rewinds = false;
  return out;
}

}  // namespace kvsmith
