#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/files.h"
#include "core/ggml_blocks.h"

namespace kvsmith {

/// GGUF, the model format of llama.cpp, after docs/gguf.md of github.com/ggml-org/ggml. Little
/// endian; versions 2 and 3, which are the same then, are read, 3 is written.

/// Types of metadata, with their numbers in the file.
enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

/// One tensor of a GGUF file.
struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  /// Rows first, as everywhere in this program; the file has them the other way round. 1 to 4.
  std::vector<int64_t> shape;
  uint64_t offset = 0;  ///< of its first byte, from the start of the file
  uint64_t bytes = 0;
};

/// A GGUF file, read strictly: whatever llama.cpp or the `gguf` package refuse or could understand
/// differently is refused. Opening it reads metadata and names, not the data, and needs memory of
/// about twice their size. Errors: 65 with file, what, byte offset and what was expected. Reading
/// is safe from several threads.
class GgufFile {
 public:
  explicit GgufFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  uint32_t version() const { return version_; }
  uint64_t alignment() const { return alignment_; }
  const std::map<std::string, GgufTensor>& tensors() const { return tensors_; }
  /// nullptr when there is none of that name.
  const GgufTensor* find(const std::string& name) const;
  /// Copies the data as it is in the file, tensor.bytes bytes.
  void read(const GgufTensor& tensor, void* destination) const;

  std::vector<std::string> keys() const;
  bool has(const std::string& key) const { return values_.contains(key); }
  bool is_array(const std::string& key) const { return value(key).is_array; }

  /// Values of metadata. Throws Error 78 with the nearest key when there is none of that name, 65
  /// when it is of another type. Texts live as long as this object.
  std::string_view text(const std::string& key) const;
  bool flag(const std::string& key) const;
  /// Of any integer type, in the range of int64.
  int64_t integer(const std::string& key) const;
  /// A float: of 32 bits, the shortest decimal that stands for it (1e-5, not 9.9999997e-06).
  double number(const std::string& key) const;
  /// Of arrays.
  std::vector<std::string_view> texts(const std::string& key) const;
  std::vector<int64_t> integers(const std::string& key) const;
  std::vector<float> numbers(const std::string& key) const;

 private:
  /// A value or array in header_; the bytes are those of the elements.
  struct Value {
    GgufType type = GgufType::kUint8;
    bool is_array = false;
    uint64_t count = 1;
    size_t begin = 0, end = 0;
  };
  class Reader;

  const Value& value(const std::string& key) const;
  const Value& value(const std::string& key, bool is_array, const char* expected) const;
  [[noreturn]] void refuse_type(const std::string& key, const char* expected) const;

  InputFile file_;
  std::string header_;  ///< the bytes before the tensor data
  uint32_t version_ = 0;
  uint64_t alignment_ = 0;
  std::map<std::string, Value> values_;
  std::map<std::string, GgufTensor> tensors_;
};

/// What GgufFile::number() gives for a value that was written as float32.
double as_stored_float32(double value);

/// Metadata in the order in which it will be written. Keys must not repeat.
class GgufMetadata {
 public:
  void add_text(std::string_view key, std::string_view value);
  void add_flag(std::string_view key, bool value);
  void add_uint32(std::string_view key, uint32_t value);
  void add_float32(std::string_view key, float value);
  void add_texts(std::string_view key, const std::vector<std::string>& values);
  void add_int32s(std::string_view key, const std::vector<int32_t>& values);
  void add_float32s(std::string_view key, const std::vector<float>& values);

  uint64_t count() const { return count_; }
  const std::string& bytes() const { return bytes_; }

 private:
  void add(std::string_view key, GgufType type, std::string_view value);

  uint64_t count_ = 0;
  std::string bytes_;
};

/// Writes a GGUF file that appears under its name when commit() returns. The same tensors and
/// metadata give the same bytes. Errors of use: 70.
class GgufWriter {
 public:
  /// `tensors`: name, type and shape in the order of the data; offset and bytes are ignored.
  GgufWriter(const std::filesystem::path& path,
             const GgufMetadata& metadata,
             std::vector<GgufTensor> tensors);

  /// With offsets and sizes, for the buffers.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  /// The next tensor, which must be `name` and of `bytes` bytes.
  void write(std::string_view name, const void* data, uint64_t bytes);
  /// Throws 70 when tensors are missing. Returns the SHA-256 of the file in hex.
  std::string commit();

 private:
  AtomicFile file_;
  std::string where_;
  std::vector<GgufTensor> tensors_;
  size_t next_ = 0;
};

}  // namespace kvsmith
