#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/files.h"

namespace kvsmith {

/// One tensor of a safetensors file.
struct TensorInfo {
  std::string name;
  std::string dtype;           ///< "F32", "BF16", "I64", ...: see dtype_bytes()
  std::vector<int64_t> shape;  ///< at most 8 dimensions; empty for a scalar
  uint64_t offset = 0;         ///< of its first byte, from the start of the file
  uint64_t bytes = 0;
};

/// Bytes of one element; 0 when `dtype` is none of BOOL U8 I8 F8_E4M3 F8_E5M2 F8_E8M0 U16 I16 F16
/// BF16 U32 I32 F32 U64 I64 F64 C64. Types smaller than a byte are not supported.
uint64_t dtype_bytes(std::string_view dtype);

/// A safetensors file, read strictly: what two parsers could understand differently is refused
/// (duplicate names, holes, overlaps, sizes that do not match shapes). Errors: 65 with file, tensor
/// and numbers. Reading is safe from several threads.
class SafetensorsFile {
 public:
  /// Reads and checks the header, not the data.
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  /// nullptr when there is none of that name.
  const TensorInfo* find(const std::string& name) const;
  /// Copies the data, little-endian and in row-major order, to `destination`: info.bytes bytes.
  void read(const TensorInfo& info, void* destination) const;

 private:
  InputFile file_;
  std::map<std::string, std::string> metadata_;
  std::map<std::string, TensorInfo> tensors_;
};

/// Sorts so that every tensor is aligned to its element size in a SafetensorsWriter: wide elements
/// first, otherwise in the order given.
void sort_for_alignment(std::vector<TensorInfo>& tensors);

/// Writes a safetensors file that appears under its name when commit() returns. The same tensors
/// and metadata give the same bytes. The data starts at a multiple of 64 bytes; a tensor that would
/// not be aligned to its element size is refused. Errors of use: 70.
class SafetensorsWriter {
 public:
  /// `tensors`: name, dtype and shape in the order of the data; offset and bytes are ignored.
  SafetensorsWriter(const std::filesystem::path& path,
                    std::vector<TensorInfo> tensors,
                    const std::map<std::string, std::string>& metadata = {});

  /// The next tensor, which must be `name` and of `bytes` bytes.
  void write(std::string_view name, const void* data, uint64_t bytes);
  /// Throws 70 when tensors are missing. Returns the SHA-256 of the file in hex.
  std::string commit();

 private:
  AtomicFile file_;
  std::string where_;
  std::vector<TensorInfo> tensors_;
  size_t next_ = 0;
};

}  // namespace kvsmith
