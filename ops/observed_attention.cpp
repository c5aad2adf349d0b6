#include "ops/observed_attention.h"

#include <algorithm>
#include <cmath>

#include <torch/types.h>

namespace kvsmith {
namespace {

constexpr int64_t kScores = int64_t{1} << 23;  // alive at once: 32 MiB of fp32

/// Rows that some of the queries may see: the first so many.
int64_t rows_seen(const Visibility& visibility, const Span& some_queries) {
  const int64_t all = visibility.rows.seq();
  if (!visibility.queries.is_range() || !visibility.rows.is_range()) return all;
  const int64_t last = visibility.queries.span(0).first + some_queries.end() - 1;
  return std::clamp<int64_t>(last + 1 - visibility.rows.span(0).first, 0, all);
}

/// Softmax over rows and, where there are sinks, one more logit a head that belongs to no row.
at::Tensor weights_of(const at::Tensor& logits, const at::Tensor& hidden, const at::Tensor& sinks) {
  if (!sinks.defined()) return torch::softmax(logits, -1).masked_fill_(hidden, 0);
  auto sink = sinks.to(torch::kFloat).view({1, -1, 1, 1});
  sink = sink.expand({logits.size(0), -1, logits.size(2), 1});
  return torch::softmax(torch::cat({logits, sink}, -1), -1).narrow(-1, 0, logits.size(3));
}

}  // namespace

at::Tensor observed_attention(const at::Tensor& q,
                              const at::Tensor& k,
                              const at::Tensor& v,
                              const Visibility& visibility,
                              const at::Tensor& sinks,
                              double scale) {
  const int64_t batch = q.size(0), heads = q.size(1), queries = q.size(2);
  const int64_t kv_heads = k.size(1), group = heads / kv_heads, value_width = v.size(3);
  const auto last = visibility.queries.at().amax(1);
  const int64_t step = std::max<int64_t>(1, kScores / (batch * heads * k.size(2)));
  std::vector<at::Tensor> out;
  for (int64_t first = 0; first < queries; first += step) {
    const Span some{first, std::min(step, queries - first)};
    const int64_t rows = rows_seen(visibility, some);
    const auto keys = k.narrow(2, 0, rows), values = v.narrow(2, 0, rows);
    // queries of a group are rows of one product, which reads each key once
    const auto of_group =
        q.narrow(2, first, some.count).reshape({batch, kv_heads, group * some.count, q.size(3)});
    auto logits = torch::matmul(of_group, keys.transpose(2, 3)).to(torch::kFloat) * scale;
    logits = logits.view({batch, kv_heads, group, some.count, rows});
    const auto hidden = visibility.mask_of(some, rows).logical_not().unsqueeze(2);
    logits = logits.masked_fill(hidden, -INFINITY).flatten(1, 2);
    const auto weights = weights_of(
        logits, hidden.expand({batch, kv_heads, group, some.count, rows}).flatten(1, 2), sinks);
    visibility.observer->observe({.logits = logits,
                                  .weights = weights,
                                  .q = q.narrow(2, first, some.count),
                                  .scale = scale,
                                  .queries = visibility.queries.at().narrow(1, first, some.count),
                                  .last = last,
                                  .rows = visibility.rows.by_head().narrow(2, 0, rows)});
    out.push_back(
        torch::matmul(weights.to(v.scalar_type()).view({batch, kv_heads, group * some.count, rows}),
                      values)
            .view({batch, heads, some.count, value_width}));
  }
  return torch::cat(out, 2);
}

}  // namespace kvsmith
