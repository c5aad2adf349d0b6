#include <torch/types.h>

#include "cache/codecs/codecs.h"
#include "cache/quantise.h"

namespace kvsmith {
namespace {

constexpr int64_t kHalfBytes = 2, kMetadata = 2 * kHalfBytes;

class IntegerRows final : public RowCodec {
 public:
  explicit IntegerRows(int64_t bits) : bits_(bits) {}

  int64_t row_bytes(int64_t width) const override { return kMetadata + width * bits_ / 8; }
  int64_t metadata_bytes(int64_t /*width*/) const override { return kMetadata; }
  at::Tensor encode(const at::Tensor& rows) const override {
    const auto row = min_max_codes(rows.to(torch::kFloat), -1, bits_);
    return torch::cat(
        {row.scale.view(torch::kByte), row.zero.view(torch::kByte), pack(row.codes, -1, bits_)},
        -1);
  }
  at::Tensor decode(const at::Tensor& bytes, int64_t width, at::ScalarType type) const override {
    auto shape = bytes.sizes().vec();
    shape.back() = width;
    auto out = torch::empty(shape, bytes.options().dtype(torch::kFloat));
    unpack(bytes.narrow(-1, kMetadata, bytes.size(-1) - kMetadata), -1, bits_, out);
    auto metadata = bytes.narrow(-1, 0, kMetadata);
    // rows of an odd number of bytes have some at odd addresses, where no view can be
    if (bytes.size(-1) % 2 != 0) metadata = metadata.clone(at::MemoryFormat::Contiguous);
    const auto halves = metadata.view(torch::kHalf);
    apply_min_max(out, halves.narrow(-1, 0, 1), halves.narrow(-1, 1, 1));
    return out.to(type);
  }

 private:
  int64_t bits_;
};

}  // namespace

std::shared_ptr<const RowCodec> make_int8_rows() { return std::make_shared<IntegerRows>(8); }
std::shared_ptr<const RowCodec> make_int4_rows() { return std::make_shared<IntegerRows>(4); }
std::shared_ptr<const RowCodec> make_int2_rows() { return std::make_shared<IntegerRows>(2); }

}  // namespace kvsmith
