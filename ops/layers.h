#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "ops/positions.h"

namespace kvsmith {

/// x W^T + b, computed in the type of x: weights kept in fp32 serve a bf16 forward pass, and their
/// gradients arrive in fp32. x: [..., in]; weight: [out, in]; bias: [out] or undefined.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

/// What a low-rank adapter adds to a weight, in fp32: scale * up down.
/// down: [rank, in]; up: [out, rank] -> [out, in].
at::Tensor low_rank_product(const at::Tensor& down, const at::Tensor& up, double scale);

/// x / sqrt(mean(x^2) + eps) * weight over the last dimension (arXiv:1910.07467), reduced in fp32.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);
/// The same without a weight.
at::Tensor rms_norm(const at::Tensor& x, double eps);

/// [batch, seq, heads * head_dim] -> [batch, heads, seq, head_dim], a view.
at::Tensor split_heads(const at::Tensor& x, int64_t head_dim);
/// The way back: [batch, heads, seq, head_dim] -> [batch, seq, heads * head_dim].
at::Tensor merge_heads(const at::Tensor& x);

/// Rotary position embedding (arXiv:2104.09864), half-split layout as in Hugging Face; x itself for
/// theta 0, a layer without positions (NoPE). x: [batch, heads, seq, head_dim].
at::Tensor rotate(const at::Tensor& x, const Positions& positions, double theta);

/// sum + term, for a sum that begins undefined.
void accumulate(at::Tensor& sum, const at::Tensor& term);

}  // namespace kvsmith
