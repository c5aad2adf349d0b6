#include "core/safetensors.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/safetensors_format.h"
#include "core/text.h"

namespace kvsmith {
namespace {

using namespace safetensors;
using Json = nlohmann::json;

constexpr std::pair<std::string_view, uint64_t> kDtypes[] = {
    {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1},
    {"U16", 2},  {"I16", 2}, {"F16", 2}, {"BF16", 2},    {"U32", 4},     {"I32", 4},
    {"F32", 4},  {"U64", 8}, {"I64", 8}, {"F64", 8},     {"C64", 8},
};

[[noreturn]] void malformed(const std::string& where, const std::string& what) {
  throw Error(ExitCode::kBadData,
              {.what = what,
               .where = where,
               .remedy = "the file is damaged or was not written by a safetensors library"});
}

/// A tensor as the header says it is, before it is checked against the others.
struct Entry {
  TensorInfo info;
  std::array<uint64_t, 2> offsets{};
  size_t offsets_read = 0;
  bool has_dtype = false, has_shape = false, has_offsets = false;
};

/// Receives the header's JSON piece by piece, so that nothing is built that was not asked for:
/// neither deep nesting nor a second value for a name gets past it.
class HeaderReader : public nlohmann::json_sax<Json> {
 public:
  HeaderReader(std::string where, std::map<std::string, std::string>& metadata)
      : where_(std::move(where)), metadata_(metadata) {}

  std::map<std::string, Entry> entries;

  bool null() override { return unexpected("null"); }
  bool boolean(bool value) override { return unexpected(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override {
    return unexpected("the number " + std::to_string(value));
  }
  bool number_float(number_float_t /*value*/, const string_t& text) override {
    return unexpected("the number " + text.substr(0, 40));
  }
  bool binary(binary_t& /*value*/) override { return unexpected("bytes"); }

  bool number_unsigned(number_unsigned_t value) override {
    constexpr uint64_t kLargest = std::numeric_limits<int64_t>::max();
    if (value > kLargest) return unexpected("the number " + std::to_string(value));
    if (inside_ == Inside::kShape) {
      if (entry_->info.shape.size() == kMostDimensions) refuse("has more than 8 dimensions");
      entry_->info.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (inside_ == Inside::kOffsets) {
      if (entry_->offsets_read == 2) refuse("has more than two data_offsets");
      entry_->offsets[entry_->offsets_read++] = value;
      return true;
    }
    return unexpected("the number " + std::to_string(value));
  }

  bool string(string_t& value) override {
    if (inside_ == Inside::kMetadata) {
      if (!metadata_.emplace(key_, value).second)
        refuse("has the key " + in_quotes(key_) + " twice");
      return true;
    }
    if (inside_ != Inside::kTensor || key_ != "dtype") return unexpected(in_quotes(value));
    if (dtype_bytes(value) == 0) refuse("has the unsupported dtype " + in_quotes(value));
    entry_->info.dtype = value;
    return true;
  }

  bool start_object(size_t /*size*/) override {
    if (inside_ == Inside::kNothing) {
      inside_ = Inside::kHeader;
    } else if (inside_ == Inside::kHeader) {
      inside_ = name_ == kMetadataName ? Inside::kMetadata : Inside::kTensor;
    } else {
      return unexpected("an object");
    }
    return true;
  }

  bool key(string_t& value) override {
    if (inside_ == Inside::kHeader) {
      name_ = value;
      if (value == kMetadataName) {
        if (std::exchange(has_metadata_, true)) refuse("is there twice");
        return true;
      }
      if (entries.size() == kMostTensors) malformed(where_, "has more than 1000000 tensors");
      const auto [place, is_new] = entries.try_emplace(value);
      if (!is_new) refuse("is there twice");
      entry_ = &place->second;
      entry_->info.name = value;
      return true;
    }
    key_ = value;
    if (inside_ == Inside::kMetadata) return true;
    bool* const seen = value == "dtype"          ? &entry_->has_dtype
                       : value == "shape"        ? &entry_->has_shape
                       : value == "data_offsets" ? &entry_->has_offsets
                                                 : nullptr;
    if (seen == nullptr) refuse("has the unknown key " + in_quotes(value));
    if (std::exchange(*seen, true)) refuse("has the key " + in_quotes(value) + " twice");
    return true;
  }

  bool end_object() override {
    if (inside_ == Inside::kTensor) {
      if (!entry_->has_dtype) refuse("has no dtype");
      if (!entry_->has_shape) refuse("has no shape");
      if (!entry_->has_offsets) refuse("has no data_offsets");
    }
    inside_ = inside_ == Inside::kHeader ? Inside::kNothing : Inside::kHeader;
    return true;
  }

  bool start_array(size_t /*size*/) override {
    if (inside_ != Inside::kTensor || key_ == "dtype") return unexpected("a list");
    inside_ = key_ == "shape" ? Inside::kShape : Inside::kOffsets;
    return true;
  }

  bool end_array() override {
    if (inside_ == Inside::kOffsets && entry_->offsets_read != 2) {
      refuse(cat("has ", entry_->offsets_read, " data_offsets where 2 were expected"));
    }
    inside_ = Inside::kTensor;
    return true;
  }

  bool parse_error(size_t position,
                   const std::string& /*token*/,
                   const nlohmann::detail::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, column 9: syntax error ..."
    const std::string_view text = error.what();
    const size_t prefix = text.find(": ");
    const std::string_view reason = text.substr(prefix == text.npos ? 0 : prefix + 2, 300);
    malformed(where_,
              cat("header is not valid JSON near byte ", kLengthBytes + position, ": ", reason));
  }

 private:
  enum class Inside { kNothing, kHeader, kMetadata, kTensor, kShape, kOffsets };

  [[noreturn]] void refuse(const std::string& what) const {
    malformed(name_ == kMetadataName ? where_ + ": __metadata__" : place_of(where_, name_), what);
  }

  [[noreturn]] bool unexpected(const std::string& found) const {
    switch (inside_) {
      case Inside::kNothing:
        malformed(where_, cat("header is ", found, ", not an object"));
      case Inside::kHeader:
        refuse(cat("is ", found, ", not an object"));
      case Inside::kMetadata:
        refuse(cat("has ", found, " for ", in_quotes(key_), ", not a string"));
      case Inside::kTensor:
        refuse(cat("has ", found, " for ", in_quotes(key_)));
      case Inside::kShape:
        refuse(cat("has ", found, " in its shape"));
      case Inside::kOffsets:
        break;
    }
    refuse(cat("has ", found, " in its data_offsets"));
  }

  std::string where_;
  std::map<std::string, std::string>& metadata_;
  Inside inside_ = Inside::kNothing;
  bool has_metadata_ = false;
  std::string name_, key_;  ///< of the object, and of the field in it, being read
  Entry* entry_ = nullptr;
};

std::string read_header(const InputFile& file) {
  const std::string where = file.path().string();
  if (file.size() < kLengthBytes) {
    malformed(where, cat("has ", file.size(), " bytes, less than the 8 of a header length"));
  }
  uint64_t length = 0;
  file.read(0, &length, sizeof length);
  if (length > kLargestHeader) {
    malformed(where, cat("says its header has ", length, " bytes; at most ", kLargestHeader,
                         " are allowed"));
  }
  if (length > file.size() - kLengthBytes) {
    malformed(where, cat("says its header has ", length, " bytes, but only ",
                         file.size() - kLengthBytes, " follow"));
  }
  std::string header(length, '\0');
  file.read(kLengthBytes, header.data(), header.size());
  // The parser would take a NUL for the end, and skip a byte order mark.
  if (const size_t nul = header.find('\0'); nul != header.npos) {
    malformed(where, cat("header has a NUL byte at byte ", kLengthBytes + nul));
  }
  const size_t first = header.find_first_not_of(" \t\r\n");
  if (first == header.npos || header[first] != '{') {
    malformed(where, "header does not start with {");
  }
  return header;
}

/// Checks that the tensors cover the data section [0, data_bytes) exactly once, and moves their
/// offsets to the start of the file.
void place_tensors(std::map<std::string, Entry>& entries,
                   uint64_t data_start,
                   uint64_t data_bytes,
                   const std::string& where) {
  std::vector<Entry*> order;
  for (auto& [name, entry] : entries) {
    const uint64_t begin = entry.offsets[0], end = entry.offsets[1];
    const auto place = [&] { return place_of(where, entry.info.name); };
    if (begin > end) malformed(place(), cat("begins at ", begin, ", after its end at ", end));
    if (end > data_bytes) {
      malformed(place(), cat("ends at byte ", end, " of the data, which has ", data_bytes));
    }
    const auto bytes = size_of(entry.info);
    const auto kind = [&] { return cat(entry.info.dtype, " ", shape_text(entry.info.shape)); };
    if (!bytes) malformed(place(), cat(kind(), " has more bytes than a number can hold"));
    if (*bytes != end - begin) {
      malformed(place(),
                cat(kind(), " has ", *bytes, " bytes, but its data_offsets span ", end - begin));
    }
    entry.info.bytes = *bytes;
    entry.info.offset = data_start + begin;
    order.push_back(&entry);
  }
  std::ranges::sort(order, {}, [](const Entry* e) { return e->offsets; });
  uint64_t covered = 0;
  for (const Entry* entry : order) {
    const uint64_t begin = entry->offsets[0];
    if (begin != covered) {
      malformed(place_of(where, entry->info.name),
                cat("begins at byte ", begin, " of the data, ",
                    begin < covered ? "inside the tensor before it, which ends at "
                                    : "leaving a hole after the tensor before it, which ends at ",
                    covered));
    }
    covered = entry->offsets[1];
  }
  if (covered != data_bytes) {
    malformed(where, cat("has ", data_bytes, " bytes of data, of which the last ",
                         data_bytes - covered, " belong to no tensor"));
  }
}

}  // namespace

uint64_t dtype_bytes(std::string_view dtype) {
  for (const auto& [name, bytes] : kDtypes) {
    if (name == dtype) return bytes;
  }
  return 0;
}

namespace safetensors {

std::string place_of(const std::string& file, const std::string& tensor) {
  return cat(file, ": tensor ", in_quotes(tensor));
}

std::optional<uint64_t> size_of(const TensorInfo& info) {
  uint64_t bytes = dtype_bytes(info.dtype);
  bool is_empty = false;
  for (const int64_t size : info.shape) {
    is_empty |= size == 0;
    if (size != 0 && __builtin_mul_overflow(bytes, static_cast<uint64_t>(size), &bytes)) return {};
  }
  if (bytes > uint64_t{std::numeric_limits<int64_t>::max()}) return {};
  return is_empty ? 0 : bytes;
}

}  // namespace safetensors

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  const std::string where = path.string();
  const std::string header = read_header(file_);
  HeaderReader reader(where, metadata_);
  Json::sax_parse(header, &reader);
  const uint64_t data_start = kLengthBytes + header.size();
  place_tensors(reader.entries, data_start, file_.size() - data_start, where);
  for (auto& [name, entry] : reader.entries) {
    tensors_.emplace_hint(tensors_.end(), name, std::move(entry.info));
  }
}

const TensorInfo* SafetensorsFile::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

void SafetensorsFile::read(const TensorInfo& info, void* destination) const {
  file_.read(info.offset, destination, info.bytes);
}

}  // namespace kvsmith
