#include "core/gguf.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "core/error.h"
#include "core/gguf_format.h"
#include "core/text.h"

namespace kvsmith {

using namespace gguf;

namespace gguf {

namespace {

struct TypeName {
  const char* name;
  uint64_t bytes;
};
constexpr TypeName kTypes[] = {{"uint8", 1},  {"int8", 1},  {"uint16", 2},  {"int16", 2},
                               {"uint32", 4}, {"int32", 4}, {"float32", 4}, {"bool", 1},
                               {"string", 0}, {"array", 0}, {"uint64", 8},  {"int64", 8},
                               {"float64", 8}};

}  // namespace

uint64_t bytes_of(GgufType type) {
  const auto number = static_cast<uint32_t>(type);
  return number < std::size(kTypes) ? kTypes[number].bytes : 0;
}

std::string name_of(GgufType type) {
  const auto number = static_cast<uint32_t>(type);
  return number < std::size(kTypes) ? kTypes[number].name : std::to_string(number);
}

std::optional<uint64_t> size_of(const GgufTensor& tensor) {
  const GgmlBlock& block = ggml_block(tensor.type);
  uint64_t elements = 1, bytes = 0;
  for (const int64_t size : tensor.shape) {
    if (__builtin_mul_overflow(elements, static_cast<uint64_t>(size), &elements)) return {};
  }
  if (__builtin_mul_overflow(elements / block.elements, uint64_t{block.bytes}, &bytes)) return {};
  if (std::max(elements, bytes) > uint64_t{std::numeric_limits<int64_t>::max()}) return {};
  return bytes;
}

}  // namespace gguf

/// Walks over the header once. Nothing is allocated for a count or length before the bytes that it
/// stands for are known to be in the file.
class GgufFile::Reader {
 public:
  explicit Reader(GgufFile& file) : out_(file), size_(file.file_.size()) {}

  void read() {
    read_start();
    const auto tensors = fixed<uint64_t>("the number of tensors");
    const auto values = fixed<uint64_t>("the number of metadata keys");
    // the shortest possible: name of no bytes, no dimensions, type, offset; key of one byte, bool
    constexpr uint64_t kLeastTensor = 8 + 4 + 4 + 8, kLeastValue = 8 + 1 + 4 + 1;
    expect_room(tensors, kLeastTensor, "tensors");
    expect_room(values, kLeastValue, "metadata keys");
    if (tensors > kMostTensors || values > kMostValues) {
      refuse(cat("has ", tensors, " tensors and ", values, " metadata keys"),
             "expected at most 1000000 of each");
    }
    for (uint64_t i = 0; i < values; ++i) read_value();
    read_alignment();
    order_.reserve(tensors);
    for (uint64_t i = 0; i < tensors; ++i) read_tensor();
    place_tensors();
    out_.header_.resize(at_);
    out_.header_.shrink_to_fit();
  }

 private:
  [[noreturn]] void refuse(const std::string& what, const std::string& expected) const {
    refuse_at(what_at_, what, expected);
  }
  [[noreturn]] void refuse_at(uint64_t byte,
                              const std::string& what,
                              const std::string& expected) const {
    throw Error(ExitCode::kBadData,
                {.what = cat(place_.empty() ? "" : place_ + " ", what, ", at byte ", byte),
                 .where = out_.path().string(),
                 .remedy = expected});
  }

  /// The next `bytes` bytes of the header, for what `what` names.
  const char* take(uint64_t bytes, const char* what) {
    what_at_ = at_;
    if (bytes > size_ - at_) {
      refuse(cat("is cut off: ", what, " takes ", bytes, " bytes and ", size_ - at_, " are left"),
             "download or convert the file again");
    }
    if (at_ + bytes > kLargestHeader)
      refuse("has more than 1 GiB of metadata", "a sound file has some megabytes");
    if (at_ + bytes > out_.header_.size()) {
      // in large steps, as most files have megabytes of tokens there
      constexpr uint64_t kStep = uint64_t{1} << 20;
      const uint64_t old = out_.header_.size();
      const uint64_t wanted = std::max({at_ + bytes, old + old / 2, old + kStep});
      out_.header_.resize(std::min(wanted, size_));
      out_.file_.read(old, out_.header_.data() + old, out_.header_.size() - old);
    }
    const char* const start = out_.header_.data() + at_;
    at_ += bytes;
    return start;
  }

  template <class T>
  T fixed(const char* what) {
    T value{};
    std::memcpy(&value, take(sizeof value, what), sizeof value);
    return value;
  }

  /// The text is valid until the next take().
  std::string_view text(const char* what) {
    const auto length = fixed<uint64_t>(what);
    return {take(length, what), length};
  }

  void expect_room(uint64_t count, uint64_t least, const char* what) const {
    if (count > (size_ - at_) / least) {
      refuse(
          cat("says it has ", count, " ", what, ", for which ", size_ - at_, " bytes are too few"),
          cat("expected at least ", least, " bytes for each"));
    }
  }

  void read_start() {
    const std::string_view magic(take(kMagic.size(), "the magic number"), kMagic.size());
    if (magic != kMagic) refuse("does not begin with GGUF", "is this a GGUF file?");
    out_.version_ = fixed<uint32_t>("the version");
    if ((out_.version_ & 0xFFFFU) == 0) {
      refuse("is big-endian", "convert it with gguf-convert-endian of the Python package gguf");
    }
    if (out_.version_ < kOldestVersion || out_.version_ > kVersion) {
      refuse(cat("has version ", out_.version_), "versions 2 and 3 are supported");
    }
  }

  void read_value() {
    place_.clear();
    const uint64_t key_at = at_;
    const std::string key(text("a metadata key"));
    what_at_ = key_at;
    if (key.empty() || key.size() > kLongestKey)
      refuse(cat("has a metadata key of ", key.size(), " bytes"), "expected 1 to 65535");
    if (std::ranges::any_of(key, [](char c) { return c <= ' ' || c > '~'; }))
      refuse("has the metadata key " + in_quotes(key), "expected printable ASCII without spaces");
    place_ = "metadata " + in_quotes(key);
    Value value{.type = type("the type")};
    if (value.type == GgufType::kArray) {
      value.is_array = true;
      value.type = type("the type of the elements");
      if (value.type == GgufType::kArray)
        refuse("is an array of arrays", "expected an array of numbers, bools or texts");
      value.count = fixed<uint64_t>("the length");
      const uint64_t least = value.type == GgufType::kString ? 8 : bytes_of(value.type);
      expect_room(value.count, least, "elements");
    }
    value.begin = at_;
    if (value.type == GgufType::kString) {
      for (uint64_t i = 0; i < value.count; ++i) text("a text");
    } else {
      const char* const bytes = take(value.count * bytes_of(value.type), "the value");
      if (value.type == GgufType::kBool) expect_bools(bytes, value);
    }
    value.end = at_;
    what_at_ = key_at;
    if (!out_.values_.emplace(key, value).second) refuse("is there twice", "expected once");
  }

  GgufType type(const char* what) {
    const auto type = static_cast<GgufType>(fixed<uint32_t>(what));
    if (bytes_of(type) == 0 && type != GgufType::kString && type != GgufType::kArray)
      refuse(cat("has a value of type ", name_of(type)), "expected 0 to 12");
    return type;
  }

  void expect_bools(const char* bytes, const Value& value) const {
    for (uint64_t i = 0; i < value.count; ++i) {
      if (static_cast<unsigned char>(bytes[i]) > 1)
        refuse_at(value.begin + i, cat("has the bool ", +bytes[i]), "expected 0 or 1");
    }
  }

  void read_alignment() {
    place_.clear();
    out_.alignment_ = kDefaultAlignment;
    if (!out_.has(kAlignmentKey)) return;
    const Value& value = out_.value(kAlignmentKey);
    what_at_ = value.begin;
    const auto number =
        static_cast<uint64_t>(value.type == GgufType::kUint32 ? out_.integer(kAlignmentKey) : 0);
    if (number < 8 || number > kLargestAlignment || !std::has_single_bit(number))
      refuse("has a bad general.alignment", "expected a uint32 power of two from 8 to 1048576");
    out_.alignment_ = number;
  }

  void read_tensor() {
    place_.clear();
    GgufTensor tensor;
    const uint64_t name_at = at_;
    tensor.name = text("the name of a tensor");
    what_at_ = name_at;
    if (tensor.name.empty() || tensor.name.size() > kLongestName)
      refuse(cat("has a tensor name of ", tensor.name.size(), " bytes"), "expected 1 to 64");
    place_ = "tensor " + in_quotes(tensor.name);
    const auto dimensions = fixed<uint32_t>("the number of dimensions");
    if (dimensions < 1 || dimensions > kMostDimensions)
      refuse(cat("has ", dimensions, " dimensions"), "expected 1 to 4");
    for (uint32_t i = 0; i < dimensions; ++i) {
      const auto size = fixed<uint64_t>("a dimension");
      if (size == 0 || size > uint64_t{std::numeric_limits<int64_t>::max()})
        refuse(cat("has a dimension of ", size), "expected 1 to 2^63 - 1");
      tensor.shape.insert(tensor.shape.begin(), static_cast<int64_t>(size));
    }
    const auto type = fixed<uint32_t>("the type");
    const GgmlBlock* const block = find_ggml_block(type);
    if (!block) {
      refuse(cat("is of type ", describe_ggml_type(type)), "supported: " + join(ggml_type_names()));
    }
    tensor.type = block->type;
    if (tensor.shape.back() % block->elements != 0) {
      refuse(cat("has rows of ", tensor.shape.back(), " elements"),
             cat(block->name, " needs a multiple of ", block->elements));
    }
    const auto bytes = size_of(tensor);
    if (!bytes)
      refuse(cat("is ", shape_text(tensor.shape)), "expected less than 2^63 bytes and elements");
    tensor.bytes = *bytes;
    tensor.offset = fixed<uint64_t>("the offset");
    const uint64_t offset_at = what_at_;
    what_at_ = name_at;
    const auto [place, is_new] = out_.tensors_.try_emplace(tensor.name);
    if (!is_new) refuse("is there twice", "expected once");
    place->second = std::move(tensor);
    order_.emplace_back(&place->second, offset_at);
  }

  /// ggml wants the tensors one after the other in the order of their names, each aligned.
  void place_tensors() {
    const uint64_t start = aligned(at_, out_.alignment_);
    uint64_t end = 0, next = 0;  // of the tensor before: its last byte, and where another may begin
    for (auto& [tensor, offset_at] : order_) {
      place_ = "tensor " + in_quotes(tensor->name);
      if (tensor->offset != next) {
        refuse_at(offset_at,
                  cat("begins at byte ", tensor->offset, " of the data",
                      tensor->offset < end ? ", inside the tensor before it" : ""),
                  cat("expected ", next, ", the first multiple of ", out_.alignment_,
                      " after the tensor before it"));
      }
      if (start > size_ || tensor->bytes > size_ - start || next > size_ - start - tensor->bytes) {
        refuse_at(offset_at,
                  cat("has ", tensor->bytes, " bytes from byte ", next,
                      " of the data on, which ends before"),
                  cat("the file has ", size_, " bytes; download or convert it again"));
      }
      tensor->offset = start + next;
      end = next + tensor->bytes;
      next = aligned(end, out_.alignment_);
    }
    place_.clear();
    const uint64_t last = order_.empty() ? start : start + next;
    if (size_ > last)
      refuse_at(last, cat("has ", size_ - last, " bytes that belong to no tensor"),
                "expected none");
  }

  GgufFile& out_;
  uint64_t size_;
  uint64_t at_ = 0;       ///< next byte
  uint64_t what_at_ = 0;  ///< where what was taken last begins, for messages
  std::string place_;     ///< the key or tensor being read
  std::vector<std::pair<GgufTensor*, uint64_t>> order_;  ///< and where their offsets are said
};

GgufFile::GgufFile(const std::filesystem::path& path) : file_(path) { Reader(*this).read(); }

const GgufTensor* GgufFile::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

void GgufFile::read(const GgufTensor& tensor, void* destination) const {
  file_.read(tensor.offset, destination, tensor.bytes);
}

}  // namespace kvsmith
