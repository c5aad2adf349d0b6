#include "train/coded_weights.h"

#include <memory>
#include <utility>

#include <torch/types.h>

#include "cache/row_codec.h"
#include "core/error.h"
#include "core/text.h"
#include "models/modules.h"
#include "ops/held_weight.h"

namespace kvsmith {
namespace {

class CodedWeight final : public HeldWeight {
 public:
  CodedWeight(std::shared_ptr<const RowCodec> codec, const at::Tensor& weight)
      : codec_(std::move(codec)), width_(weight.size(1)), bytes_(codec_->encode(weight)) {}

  at::Tensor dense(at::ScalarType type) const override {
    return codec_->decode(bytes_, width_, type);
  }
  int64_t bytes() const { return static_cast<int64_t>(bytes_.nbytes()); }

 private:
  std::shared_ptr<const RowCodec> codec_;
  int64_t width_;
  at::Tensor bytes_;  ///< [out, bytes of a row] uint8
};

}  // namespace

int64_t hold_coded(DecoderImpl& model, const std::string& codec) {
  const torch::NoGradGuard no_grad;
  const RowCodecKind& kind = row_codec(codec);
  int64_t bytes = 0;
  for (const auto& item : model.named_modules(/*name_prefix=*/"", /*include_self=*/false)) {
    auto* map = item.value()->as<LinearImpl>();
    if (!map || !map->is_adapted()) continue;
    if (const auto needed = kind.needs(map->weight.size(1)); !needed.empty()) {
      throw Error(ExitCode::kConfig,
                  {cat(codec, " needs rows of ", needed, ", and those of ", item.key(), " have ",
                       map->weight.size(1), " elements"),
                   "lora.base", "use base = \"as_is\", or leave it out of lora.targets"});
    }
    const auto held = std::make_shared<const CodedWeight>(kind.make(), map->weight);
    bytes += held->bytes();
    map->hold(held);
  }
  return bytes;
}

}  // namespace kvsmith
