#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace kvsmith {

/// How a cache stores the rows of one stream, such as the keys of a layer. Each row, one token of
/// one head, is encoded by itself, so that any row may be dropped or overwritten at any time.
class RowCodec {
 public:
  virtual ~RowCodec() = default;

  /// Bytes of one row of `width` elements, scales included.
  virtual int64_t row_bytes(int64_t width) const = 0;
  /// Those of row_bytes() that hold scales and zero points.
  virtual int64_t metadata_bytes(int64_t width) const = 0;
  /// [..., width] of any floating type -> [..., row_bytes(width)] uint8.
  virtual at::Tensor encode(const at::Tensor& rows) const = 0;
  /// [..., row_bytes(width)] uint8 -> [..., width] of `type`; a view of `bytes` where rows are
  /// stored in that very type.
  virtual at::Tensor decode(const at::Tensor& bytes, int64_t width, at::ScalarType type) const = 0;
};

/// What the registry knows of a codec.
struct RowCodecKind {
  std::string name;  ///< of `codec_k` and `codec_v`
  std::string help;  ///< one line: layout and bits an element
  std::shared_ptr<const RowCodec> (*make)();
  /// What rows must be, where `width` does not do: "a multiple of 32"; empty where it does.
  std::string (*needs)(int64_t width);
};

/// Every codec of single rows. A new one is a file in cache/codecs and a line here.
const std::vector<RowCodecKind>& row_codecs();
/// Throws Error (78) with the nearest name.
const RowCodecKind& row_codec(const std::string& name);

}  // namespace kvsmith
