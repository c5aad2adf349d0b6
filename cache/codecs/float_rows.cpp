#include <torch/types.h>

#include "cache/codecs/codecs.h"

namespace kvsmith {
namespace {

class FloatRows final : public RowCodec {
 public:
  explicit FloatRows(at::ScalarType type) : type_(type) {}

  int64_t row_bytes(int64_t width) const override {
    return width * static_cast<int64_t>(c10::elementSize(type_));
  }
  int64_t metadata_bytes(int64_t /*width*/) const override { return 0; }
  at::Tensor encode(const at::Tensor& rows) const override {
    return rows.to(type_).contiguous().view(torch::kByte);
  }
  at::Tensor decode(const at::Tensor& bytes,
                    int64_t /*width*/,
                    at::ScalarType type) const override {
    return bytes.view(type_).to(type);
  }

 private:
  at::ScalarType type_;
};

class Fp8Rows final : public RowCodec {
 public:
  int64_t row_bytes(int64_t width) const override { return width; }
  int64_t metadata_bytes(int64_t /*width*/) const override { return 0; }
  at::Tensor encode(const at::Tensor& rows) const override {
    constexpr double kLargest = 448;
    const auto clamped = rows.to(torch::kFloat).clamp(-kLargest, kLargest);
    return clamped.to(torch::kFloat8_e4m3fn).contiguous().view(torch::kByte);
  }
  /// LibTorch's own conversion is scalar code on the CPU. The seven bits below the sign, moved to
  /// the end of fp16's exponent and fraction, are the number times 2^-8, as the exponent has bias 7
  /// instead of 15.
  at::Tensor decode(const at::Tensor& bytes,
                    int64_t /*width*/,
                    at::ScalarType type) const override {
    constexpr int64_t kTopOfExponent = 0x4000, kToHalf = 7;
    auto bits = bytes.view(torch::kChar).to(torch::kShort).bitwise_left_shift_(kToHalf);
    bits.bitwise_and_(~kTopOfExponent);  // that is a copy of the sign now
    // 0x7F, NaN, alone carries into the sign: it gets the whole exponent of a NaN of fp16
    const auto is_nan = bytes.bitwise_and(0x7F).add_(1).bitwise_and_(0x80);
    bits.bitwise_or_(is_nan.to(torch::kShort).bitwise_left_shift_(kToHalf));
    return bits.view(torch::kHalf).to(torch::kFloat).mul_(256).to(type);
  }
};

}  // namespace

std::shared_ptr<const RowCodec> make_fp32_rows() {
  return std::make_shared<FloatRows>(torch::kFloat);
}
std::shared_ptr<const RowCodec> make_bf16_rows() {
  return std::make_shared<FloatRows>(torch::kBFloat16);
}
std::shared_ptr<const RowCodec> make_fp16_rows() {
  return std::make_shared<FloatRows>(torch::kHalf);
}
std::shared_ptr<const RowCodec> make_fp8_e4m3_rows() { return std::make_shared<Fp8Rows>(); }

}  // namespace kvsmith
