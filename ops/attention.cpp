#include "ops/attention.h"

#include <cmath>

#include <torch/types.h>

namespace kvsmith {
namespace {

/// Reads keys and values once per group: the queries of a group are rows of one matrix product,
/// which on CPU streams a long cache faster than a fused kernel does for a single query.
at::Tensor grouped(const at::Tensor& q,
                   const at::Tensor& k,
                   const at::Tensor& v,
                   const at::Tensor& mask) {
  const int64_t batch = q.size(0), heads = q.size(1), queries = q.size(2), width = q.size(3);
  const int64_t kv_heads = k.size(1), group = heads / kv_heads;
  auto rows_of_group = q.reshape({batch, kv_heads, group * queries, width});
  auto scores =
      torch::matmul(rows_of_group, k.transpose(2, 3)) / std::sqrt(static_cast<double>(width));
  if (mask.defined()) {
    auto hidden = mask.logical_not().repeat({1, 1, group, 1});
    scores = scores.masked_fill(hidden, -INFINITY);
    // masking the weights too turns the NaN of an empty row into zeros
    auto weights =
        torch::softmax(scores, -1, torch::kFloat).masked_fill(hidden, 0).to(v.scalar_type());
    return torch::matmul(weights, v).reshape({batch, heads, queries, v.size(3)});
  }
  auto weights = torch::softmax(scores, -1, torch::kFloat).to(v.scalar_type());
  return torch::matmul(weights, v).reshape({batch, heads, queries, v.size(3)});
}

}  // namespace

bool Visibility::is_causal_suffix() const {
  return queries.is_range() && rows.is_range() && rows.span(0).first == 0 &&
         queries.span(0).end() == rows.span(0).end();
}

at::Tensor Visibility::mask() const {
  auto query = queries.at().unsqueeze(2), row = rows.at().unsqueeze(1);
  auto seen = row.le(query).logical_and(row.ge(0));
  if (queries.is_packed()) {
    seen = seen.logical_and(queries.segments().unsqueeze(2).eq(rows.segments().unsqueeze(1)));
  }
  return seen.unsqueeze(1);
}

at::Tensor attention(const at::Tensor& q,
                     const at::Tensor& k,
                     const at::Tensor& v,
                     const Visibility& visibility) {
  const bool suffix = visibility.is_causal_suffix();
  if (suffix && visibility.queries.span(0).first == 0) {
    return at::scaled_dot_product_attention(q, k, v, {}, 0.0, /*is_causal=*/true, {},
                                            /*enable_gqa=*/true);
  }
  if (q.size(2) == 1) return grouped(q, k, v, suffix ? at::Tensor() : visibility.mask());
  // is_causal is aligned to the top left, wrong for a chunk behind a cache: hence the mask
  return at::scaled_dot_product_attention(q, k, v, visibility.mask(), 0.0, false, {}, true);
}

at::Tensor attention_reference(const at::Tensor& q,
                               const at::Tensor& k,
                               const at::Tensor& v,
                               const Visibility& visibility) {
  const int64_t group = q.size(1) / k.size(1);
  auto wide_k = k.to(torch::kFloat).repeat_interleave(group, 1);
  auto wide_v = v.to(torch::kFloat).repeat_interleave(group, 1);
  auto scores = torch::matmul(q.to(torch::kFloat), wide_k.transpose(2, 3)) /
                std::sqrt(static_cast<double>(q.size(3)));
  auto hidden = visibility.mask().logical_not();
  auto weights = torch::softmax(scores.masked_fill(hidden, -INFINITY), -1).masked_fill(hidden, 0);
  return torch::matmul(weights, wide_v).to(q.scalar_type());
}

}  // namespace kvsmith
