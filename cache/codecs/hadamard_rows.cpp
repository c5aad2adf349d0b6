#include <cmath>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include <torch/types.h>

#include "cache/codecs/codecs.h"
#include "cache/quantise.h"

namespace kvsmith {
namespace {

/// The Hadamard matrix of +-1 in Sylvester's order, [size, size] fp32; size is a power of two.
at::Tensor signs(int64_t size, at::Device device) {
  if (size == 1) return torch::ones({1, 1}, torch::dtype(torch::kFloat).device(device));
  const auto half = signs(size / 2, device);
  return torch::cat({torch::cat({half, half}, 1), torch::cat({half, -half}, 1)}, 0);
}

class HadamardRows final : public RowCodec {
 public:
  explicit HadamardRows(std::shared_ptr<const RowCodec> inner) : inner_(std::move(inner)) {}

  int64_t row_bytes(int64_t width) const override { return inner_->row_bytes(width); }
  int64_t metadata_bytes(int64_t width) const override { return inner_->metadata_bytes(width); }
  at::Tensor encode(const at::Tensor& rows) const override {
    // inf - inf would turn the row to NaN
    return inner_->encode(
        transformed(rows.to(torch::kFloat).nan_to_num(NAN, kLargestHalf, -kLargestHalf)));
  }
  at::Tensor decode(const at::Tensor& bytes, int64_t width, at::ScalarType type) const override {
    return transformed(inner_->decode(bytes, width, torch::kFloat)).to(type);
  }

 private:
  at::Tensor transformed(const at::Tensor& rows) const {
    const int64_t width = rows.size(-1), block = width & -width;
    return rows.unflatten(-1, {-1, block}).matmul(matrix(block, rows.device())).flatten(-2);
  }

  /// Orthonormal and symmetric, hence its own inverse. Made once: a short cache decodes faster than
  /// the matrix is built.
  const at::Tensor& matrix(int64_t size, at::Device device) const {
    const std::scoped_lock lock(mutex_);
    auto& out = matrices_[{size, device.str()}];
    if (!out.defined()) out = signs(size, device) / std::sqrt(static_cast<double>(size));
    return out;
  }

  std::shared_ptr<const RowCodec> inner_;
  mutable std::mutex mutex_;
  mutable std::map<std::pair<int64_t, std::string>, at::Tensor> matrices_;
};

}  // namespace

std::shared_ptr<const RowCodec> make_hadamard_rows(std::shared_ptr<const RowCodec> inner) {
  return std::make_shared<HadamardRows>(std::move(inner));
}

}  // namespace kvsmith
