#include "evaluate/cache_measurement.h"

#include <algorithm>
#include <set>

#include <torch/types.h>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {

CacheMeasurement measured(KvCache& cache, const DecoderImpl& model, int64_t batch, int64_t tokens) {
  const auto element = static_cast<int64_t>(c10::elementSize(model.compute_type()));
  CacheMeasurement out;
  out.tokens = tokens;
  out.bytes_used = cache.bytes_used() / batch;
  out.bytes_reserved = cache.bytes_reserved() / batch;
  out.bytes_formula = kv_cache_bytes(model.config(), tokens, element);
  if (out.bytes_used != out.bytes_formula || out.bytes_reserved < out.bytes_used) {
    throw Error(
        ExitCode::kInternal,
        {cat("the cache holds ", out.bytes_used, " bytes (", out.bytes_reserved,
             " reserved) after ", tokens, " tokens, the formula says ", out.bytes_formula),
         architecture_name(model.config()), "report this: inference path and formula disagree"});
  }
  return out;
}

CacheMeasurement measure_cache(DecoderImpl& model, int64_t tokens) {
  const torch::InferenceMode inference;
  const PassesFor one(model, 1, 0);
  auto cache = model.make_cache({.batch = 1});
  const auto ids = torch::arange(tokens, torch::dtype(torch::kLong).device(model.device()))
                       .remainder(model.config().vocab_size);
  model.step(ids.unsqueeze(0), Positions::range(0, tokens, model.device()), cache);
  return measured(cache, model, 1, tokens);
}

CacheLengths measure_lengths(DecoderImpl& model, int64_t context) {
  CacheLengths out;
  for (const int64_t tokens : telling_lengths(model.graph(), context))
    out.lengths.push_back(measure_cache(model, tokens));
  const bool is_there = out.lengths.back().tokens == kLongestMeasured;
  out.at_8k = is_there ? out.lengths.back() : measure_cache(model, kLongestMeasured);
  return out;
}

std::vector<int64_t> telling_lengths(const KvGraph& graph, int64_t context) {
  const int64_t longest = std::max(context, kLongestMeasured);
  std::set<int64_t> lengths = {context, std::min(4 * context, longest)};
  for (int64_t layer = 0; layer < graph.size(); ++layer) {
    const int64_t window = graph[layer].window, rows = window + graph[layer].sinks;
    if (window == 0) continue;
    for (const int64_t tokens : {window - 1, window, window + 1, rows, rows + 1})
      if (tokens > 0 && tokens <= longest) lengths.insert(tokens);
  }
  return {lengths.begin(), lengths.end()};
}

}  // namespace kvsmith
