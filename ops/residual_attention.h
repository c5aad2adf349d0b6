#pragma once

#include <ATen/core/Tensor.h>

#include "ops/linear_attention.h"
#include "ops/positions.h"

namespace kvsmith {

/// The linear part of RAttention (arXiv:2506.15545): a state for the tokens that stand before a
/// sliding window, beside which the window is exact. The token at position t takes token t - window
/// out of the window; with sinks, the first tokens never leave.

/// For each new token, the key and value that leave the window with it.
struct Leaving {
  at::Tensor k, v;    ///< [batch, kv_heads, seq, head_dim]; k is not rotated
  at::Tensor wanted;  ///< [batch|1, seq] bool: false where nothing leaves
};

/// Of a text or of packed documents from their first tokens on. k, v: [batch, kv_heads, seq,
/// head_dim] at `positions`.
Leaving leaving_in_order(const at::Tensor& k,
                         const at::Tensor& v,
                         const Positions& positions,
                         int64_t window,
                         int64_t sinks);

/// Of new tokens at `positions` among rows in any order, their own included. k, v: [batch,
/// kv_heads, rows, head_dim] at `rows`.
Leaving leaving_among(const at::Tensor& k,
                      const at::Tensor& v,
                      const Positions& rows,
                      const Positions& positions,
                      int64_t window,
                      int64_t sinks);

/// phi(x) = [softmax(x), softmax(-x)] in fp32: [..., width] -> [..., 2 * width].
at::Tensor softmax_features(const at::Tensor& x);

/// S <- S + phi(k)^T v of what leaves, then out = phi(q) S. q: [batch, heads, seq, head_dim], not
/// rotated; consecutive heads share a state. -> out [batch, heads, seq, head_dim], state [batch,
/// kv_heads, 2 * head_dim, head_dim], fp32. initial: the state before, or undefined.
Scan residual_attention(const at::Tensor& q,
                        const Leaving& leaving,
                        const Positions& positions,
                        const at::Tensor& initial = {},
                        int64_t chunk = kScanChunk);

}  // namespace kvsmith
