#pragma once

#include <ATen/core/Tensor.h>

namespace kvsmith {

/// Query heads as rows of the key/value head that they share. [batch, heads, n, width] ->
/// [batch, kv_heads, n, group, width], a view.
inline at::Tensor by_group(const at::Tensor& q, int64_t kv_heads) {
  return q.unflatten(1, {kv_heads, -1}).transpose(2, 3);
}

/// The inverse of by_group().
inline at::Tensor by_head(const at::Tensor& x) { return x.transpose(2, 3).flatten(1, 2); }

}  // namespace kvsmith
