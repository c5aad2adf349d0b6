#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace kvsmith {

constexpr double kLargestHalf = 65504;  ///< the largest finite number of fp16

/// Codes of groups of numbers: x' = code * scale + zero, with fp16 scale and zero.
struct MinMaxCodes {
  at::Tensor codes;        ///< whole numbers from 0 to 2^bits - 1, fp32, shaped like the input
  at::Tensor scale, zero;  ///< fp16, the size of the grouped dimension 1
};

/// Asymmetric min-max quantisation of x, fp32, where the elements along `dim` are a group: zero is
/// their minimum, scale the range over 2^bits - 1. |x - x'| <= scale / 2 +
/// 2^-11 (|zero| + (2^bits - 1) scale), the last term from the rounding to fp16 (below 2^-14, where
/// fp16 has fewer digits, 2^-25 for 2^-11 times the number). A group of one value has scale 0 and
/// codes 0. Scale and zero saturate at 65,504, so infinities decode to finite numbers. A group with
/// a NaN has a scale of NaN: all of it decodes to NaN.
MinMaxCodes min_max_codes(const at::Tensor& x, int64_t dim, int64_t bits);

/// x' in place of the codes. `scale` and `zero` as min_max_codes() gives them.
void apply_min_max(const at::Tensor& codes, const at::Tensor& scale, const at::Tensor& zero);

/// Codes of 2, 4 or 8 bits in bytes: along `dim`, n codes -> n * bits / 8 bytes uint8. Byte i holds
/// codes i, i + n * bits / 8 and so on, the first in its lowest bits: what lies side by side stays
/// so, for vector instructions.
at::Tensor pack(const at::Tensor& codes, int64_t dim, int64_t bits);
/// The reverse, into `codes` of any type.
void unpack(const at::Tensor& packed, int64_t dim, int64_t bits, const at::Tensor& codes);

/// Clamped to what fp16 can hold, infinities included, in the type of x; NaN stays NaN.
at::Tensor within_half(const at::Tensor& x);
/// 1 / x, but 0 where x is 0: every multiple of it is code 0.
at::Tensor inverse_or_zero(const at::Tensor& x);

}  // namespace kvsmith
