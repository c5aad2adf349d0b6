#include <ranges>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/gguf.h"
#include "core/gguf_format.h"
#include "core/text.h"

namespace kvsmith {

using namespace gguf;

namespace {

[[noreturn]] void misused(const std::string& where, const std::string& what) {
  throw Error(ExitCode::kInternal,
              {.what = what, .where = where, .remedy = "this is a bug; please report it"});
}

template <class T>
std::string bytes_from(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

std::string text_bytes(std::string_view text) {
  return bytes_from(uint64_t{text.size()}).append(text);
}

std::string array_start(GgufType type, uint64_t count) {
  return bytes_from(type) + bytes_from(count);
}

template <class T>
std::string array_bytes(GgufType type, const std::vector<T>& values) {
  return array_start(type, values.size())
      .append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

std::string padding(uint64_t offset) {
  std::string zeros;
  zeros.resize(aligned(offset, kDefaultAlignment) - offset);
  return zeros;
}

}  // namespace

void GgufMetadata::add(std::string_view key, GgufType type, std::string_view value) {
  bytes_ += text_bytes(key) + bytes_from(type);
  bytes_ += value;
  ++count_;
}

void GgufMetadata::add_text(std::string_view key, std::string_view value) {
  add(key, GgufType::kString, text_bytes(value));
}
void GgufMetadata::add_flag(std::string_view key, bool value) {
  add(key, GgufType::kBool, bytes_from(static_cast<uint8_t>(value)));
}
void GgufMetadata::add_uint32(std::string_view key, uint32_t value) {
  add(key, GgufType::kUint32, bytes_from(value));
}
void GgufMetadata::add_float32(std::string_view key, float value) {
  add(key, GgufType::kFloat32, bytes_from(value));
}
void GgufMetadata::add_texts(std::string_view key, const std::vector<std::string>& values) {
  std::string bytes = array_start(GgufType::kString, values.size());
  for (const auto& value : values) bytes += text_bytes(value);
  add(key, GgufType::kArray, bytes);
}
void GgufMetadata::add_int32s(std::string_view key, const std::vector<int32_t>& values) {
  add(key, GgufType::kArray, array_bytes(GgufType::kInt32, values));
}
void GgufMetadata::add_float32s(std::string_view key, const std::vector<float>& values) {
  add(key, GgufType::kArray, array_bytes(GgufType::kFloat32, values));
}

GgufWriter::GgufWriter(const std::filesystem::path& path,
                       const GgufMetadata& metadata,
                       std::vector<GgufTensor> tensors)
    : file_(path), where_(path.string()), tensors_(std::move(tensors)) {
  std::string header(kMagic);
  header += bytes_from(kVersion) + bytes_from(uint64_t{tensors_.size()}) +
            bytes_from(metadata.count()) + metadata.bytes();
  std::set<std::string_view> names;
  uint64_t next = 0;
  for (GgufTensor& tensor : tensors_) {
    const std::string place = cat(where_, ": tensor ", in_quotes(tensor.name));
    const GgmlBlock& block = ggml_block(tensor.type);
    if (tensor.name.empty() || tensor.name.size() > kLongestName)
      misused(place, "has a name that is not of 1 to 64 bytes");
    if (!names.insert(tensor.name).second) misused(place, "is a name in use");
    if (tensor.shape.empty() || tensor.shape.size() > kMostDimensions)
      misused(place, "has not 1 to 4 dimensions");
    for (const int64_t size : tensor.shape) {
      if (size < 1) misused(place, "has the shape " + shape_text(tensor.shape));
    }
    if (tensor.shape.back() % block.elements != 0)
      misused(place, cat("has rows that are no whole ", block.name, " blocks"));
    const auto bytes = size_of(tensor);
    if (!bytes) misused(place, "has more bytes than a number can hold");
    tensor.bytes = *bytes;
    tensor.offset = next;
    next = aligned(next + tensor.bytes, kDefaultAlignment);
    header += text_bytes(tensor.name) + bytes_from(static_cast<uint32_t>(tensor.shape.size()));
    for (const int64_t size : std::views::reverse(tensor.shape)) header += bytes_from(size);
    header += bytes_from(tensor.type) + bytes_from(tensor.offset);
  }
  header += padding(header.size());
  for (GgufTensor& tensor : tensors_) tensor.offset += header.size();
  file_.write(header);
}

void GgufWriter::write(std::string_view name, const void* data, uint64_t bytes) {
  if (next_ == tensors_.size()) misused(where_, cat("has all tensors before ", in_quotes(name)));
  const GgufTensor& tensor = tensors_[next_];
  if (name != tensor.name || bytes != tensor.bytes) {
    misused(cat(where_, ": tensor ", in_quotes(tensor.name)),
            cat("with ", tensor.bytes, " bytes is next, not ", in_quotes(name), " with ", bytes));
  }
  file_.write(data, bytes);
  file_.write(padding(bytes));
  ++next_;
}

std::string GgufWriter::commit() {
  if (next_ == tensors_.size()) return file_.commit();
  misused(where_, cat("lacks tensor ", in_quotes(tensors_[next_].name), " and ",
                      tensors_.size() - next_ - 1, " more"));
}

}  // namespace kvsmith
