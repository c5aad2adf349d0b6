#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "ops/positions.h"

namespace kvsmith {

/// Which rows each query may see, as a function of positions alone: a row is seen when it is of the
/// same segment, is not padding, and stands at or before the query.
struct Visibility {
  const Positions& queries;
  const Positions& rows;

  /// Queries are the last positions of rows that run from 0 in every sequence alike.
  bool is_causal_suffix() const;
  /// [batch|1, 1, queries, rows] bool.
  at::Tensor mask() const;
};

/// softmax(q k^T / sqrt(head_dim)) v over the visible rows (arXiv:2305.13245 for grouped heads:
/// consecutive query heads share a key/value head). A query that sees nothing gets zeros.
/// q: [batch, heads, queries, head_dim]; k, v: [batch, kv_heads, rows, head_dim], heads a multiple
/// of kv_heads -> [batch, heads, queries, head_dim]. Chooses the path; all agree with
/// attention_reference.
at::Tensor attention(const at::Tensor& q,
                     const at::Tensor& k,
                     const at::Tensor& v,
                     const Visibility& visibility);

/// The definition: explicit scores in fp32, nothing fused.
at::Tensor attention_reference(const at::Tensor& q,
                               const at::Tensor& k,
                               const at::Tensor& v,
                               const Visibility& visibility);

}  // namespace kvsmith
