#include <torch/types.h>

#include "cache/codecs/codecs.h"
#include "cache/quantise.h"

namespace kvsmith {
namespace {

constexpr int64_t kBlock = 32, kScale = 2;  // elements and bytes

/// What Q8_0 and Q4_0 share: rows are blocks, each a scale and then codes.
class GgmlRows : public RowCodec {
 public:
  explicit GgmlRows(int64_t bits) : bits_(bits) {}

  int64_t row_bytes(int64_t width) const final {
    return width / kBlock * (kScale + kBlock * bits_ / 8);
  }
  int64_t metadata_bytes(int64_t width) const final { return width / kBlock * kScale; }
  at::Tensor encode(const at::Tensor& rows) const final {
    const auto blocks = rows.to(torch::kFloat).unflatten(-1, {-1, kBlock});
    const auto scale = scale_of(blocks);
    // by the scale before it becomes fp16, as ggml does
    const auto codes = codes_of(blocks * inverse_or_zero(scale));
    return torch::cat({scale.to(torch::kHalf).view(torch::kByte), codes}, -1).flatten(-2);
  }
  at::Tensor decode(const at::Tensor& bytes, int64_t /*width*/, at::ScalarType type) const final {
    const auto blocks = bytes.unflatten(-1, {-1, row_bytes(kBlock)});
    const auto scale = blocks.narrow(-1, 0, kScale).view(torch::kHalf).to(torch::kFloat);
    return multiples(blocks.narrow(-1, kScale, kBlock * bits_ / 8))
        .mul_(scale)
        .flatten(-2)
        .to(type);
  }

 protected:
  /// [..., blocks, 32] fp32 -> [..., blocks, 1] fp32 that fp16 can hold.
  virtual at::Tensor scale_of(const at::Tensor& blocks) const = 0;
  /// Elements over their scale, [..., blocks, 32] fp32 -> codes, [..., blocks, 4 * bits] uint8.
  virtual at::Tensor codes_of(const at::Tensor& ratios) const = 0;
  /// The reverse, to whole multiples of the scale: [..., blocks, 32] fp32.
  virtual at::Tensor multiples(const at::Tensor& codes) const = 0;

 private:
  int64_t bits_;
};

/// x / divisor, rounded once. By a tensor, as CUDA multiplies by the inverse of a number.
at::Tensor quotient(const at::Tensor& x, double divisor) {
  return x / torch::full({}, divisor, x.options());
}

class Q80Rows final : public GgmlRows {
 public:
  Q80Rows() : GgmlRows(8) {}

 protected:
  at::Tensor scale_of(const at::Tensor& blocks) const override {
    return within_half(quotient(blocks.abs().amax(-1, /*keepdim=*/true), 127));
  }
  at::Tensor codes_of(const at::Tensor& ratios) const override {
    // 0 times the inverse of a scale too small for fp32 is NaN: any code does, and ggml has 127
    auto limited = ratios.nan_to_num(127).clamp_(-127, 127);
    // halves away from zero; adding a half and cutting off would round 0.49999997 up
    auto codes = limited.to(torch::kChar);
    codes.add_(limited.sub_(codes).mul_(2).to(torch::kChar));
    return codes.view(torch::kByte);
  }
  at::Tensor multiples(const at::Tensor& codes) const override {
    return codes.view(torch::kChar).to(torch::kFloat);
  }
};

class Q40Rows final : public GgmlRows {
 public:
  Q40Rows() : GgmlRows(4) {}

 protected:
  at::Tensor scale_of(const at::Tensor& blocks) const override {
    // the first element of the largest magnitude becomes exactly -8
    const auto extreme = blocks.gather(-1, blocks.abs().argmax(-1, /*keepdim=*/true));
    // + 0 makes 0 of -0: ggml has one scale for blocks of zeros
    return within_half((extreme + 0.0) / -8);
  }
  at::Tensor codes_of(const at::Tensor& ratios) const override {
    return pack((ratios + 8.5).nan_to_num_(0).clamp_(0, 15), -1, 4);
  }
  at::Tensor multiples(const at::Tensor& codes) const override {
    auto shape = codes.sizes().vec();
    shape.back() = kBlock;
    auto out = torch::empty(shape, codes.options().dtype(torch::kFloat));
    unpack(codes, -1, 4, out);
    return out.sub_(8);
  }
};

}  // namespace

std::shared_ptr<const RowCodec> make_q8_0_rows() { return std::make_shared<Q80Rows>(); }
std::shared_ptr<const RowCodec> make_q4_0_rows() { return std::make_shared<Q40Rows>(); }

}  // namespace kvsmith
