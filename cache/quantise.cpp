#include "cache/quantise.h"

#include <torch/types.h>

namespace kvsmith {

at::Tensor within_half(const at::Tensor& x) { return x.clamp(-kLargestHalf, kLargestHalf); }

at::Tensor inverse_or_zero(const at::Tensor& x) { return x.reciprocal().masked_fill_(x.eq(0), 0); }

MinMaxCodes min_max_codes(const at::Tensor& x, int64_t dim, int64_t bits) {
  const auto levels = static_cast<double>((1 << bits) - 1);
  MinMaxCodes out;
  out.zero = within_half(x.amin(dim, /*keepdim=*/true)).to(torch::kHalf);
  // from the zero as it is stored, so that its rounding cuts nothing off at the upper end
  const auto zero = out.zero.to(torch::kFloat);
  const auto range = (x.amax(dim, /*keepdim=*/true) - zero).clamp_min_(0);
  out.scale = within_half(range / levels).to(torch::kHalf);
  const auto inverse = inverse_or_zero(out.scale.to(torch::kFloat));
  out.codes = (x - zero).mul_(inverse).nan_to_num_(0).round_().clamp_(0, levels);
  return out;
}

void apply_min_max(const at::Tensor& codes, const at::Tensor& scale, const at::Tensor& zero) {
  codes.mul_(scale.to(codes.scalar_type())).add_(zero.to(codes.scalar_type()));
}

at::Tensor pack(const at::Tensor& codes, int64_t dim, int64_t bits) {
  const auto planes = codes.to(torch::kByte).chunk(8 / bits, dim);
  auto out = planes[0];
  for (size_t i = 1; i < planes.size(); ++i)
    out = out.bitwise_or(planes[i].bitwise_left_shift(static_cast<int64_t>(i) * bits));
  return out;
}

void unpack(const at::Tensor& packed, int64_t dim, int64_t bits, const at::Tensor& codes) {
  const auto planes = codes.chunk(8 / bits, dim);
  for (size_t i = 0; i < planes.size(); ++i) {
    auto plane = packed;
    if (i > 0) plane = plane.bitwise_right_shift(static_cast<int64_t>(i) * bits);
    // a right shift has cleared what is above the last plane
    if (i + 1 < planes.size()) plane = plane.bitwise_and((1 << bits) - 1);
    planes[i].copy_(plane);
  }
}

}  // namespace kvsmith
