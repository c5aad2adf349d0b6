#include "cache/row_codec.h"

#include <torch/types.h>
#include "core/error.h"
namespace kvsmith {
namespace {
template <at::ScalarType kType>
class Stored final : public RowCodec {
 public:
  int64_t row_bytes(int64_t width) const override { return width * static_cast<int64_t>(c10::elementSize(kType)); }
  int64_t metadata_bytes(int64_t) const override { return 0; }
  at::Tensor encode(const at::Tensor& rows) const override { return rows.to(kType).contiguous().view(at::kByte); }
  at::Tensor decode(const at::Tensor& bytes, int64_t, at::ScalarType type) const override { return bytes.view(kType).to(type); }
};
std::string any(int64_t) { return {}; }
}
const std::vector<RowCodecKind>& row_codecs() {
  static const std::vector<RowCodecKind> k = {
    {"fp32", "", [] () -> std::shared_ptr<const RowCodec> { return std::make_shared<Stored<at::kFloat>>(); }, any},
    {"bf16", "", [] () -> std::shared_ptr<const RowCodec> { return std::make_shared<Stored<at::kBFloat16>>(); }, any}};
  return k;
}
const RowCodecKind& row_codec(const std::string& name) { for (auto& k : row_codecs()) if (k.name == name) return k; throw Error(ExitCode::kConfig, {"no codec " + name, "", ""}); }
}
