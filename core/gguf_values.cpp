#include <array>
#include <charconv>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "core/gguf.h"
#include "core/gguf_format.h"
#include "core/text.h"

namespace kvsmith {

using namespace gguf;

namespace {

template <class T>
T value_at(const char* bytes) {
  T value{};
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

bool is_integer(GgufType type) {
  return bytes_of(type) > 0 && type != GgufType::kBool && type != GgufType::kFloat32 &&
         type != GgufType::kFloat64;
}

/// uint64 beyond int64 becomes negative.
int64_t integer_at(const char* bytes, GgufType type) {
  switch (type) {
    case GgufType::kUint8:
      return value_at<uint8_t>(bytes);
    case GgufType::kInt8:
      return value_at<int8_t>(bytes);
    case GgufType::kUint16:
      return value_at<uint16_t>(bytes);
    case GgufType::kInt16:
      return value_at<int16_t>(bytes);
    case GgufType::kUint32:
      return value_at<uint32_t>(bytes);
    case GgufType::kInt32:
      return value_at<int32_t>(bytes);
    default:
      return value_at<int64_t>(bytes);
  }
}

}  // namespace

double as_stored_float32(double value) {
  // enough for the shortest decimal of any float
  std::array<char, 32> text{};
  const auto end =
      std::to_chars(text.data(), text.data() + text.size(), static_cast<float>(value)).ptr;
  std::from_chars(text.data(), end, value);
  return value;
}

std::vector<std::string> GgufFile::keys() const {
  std::vector<std::string> out;
  for (const auto& [key, value] : values_) out.push_back(key);
  return out;
}

const GgufFile::Value& GgufFile::value(const std::string& key) const {
  const auto found = values_.find(key);
  if (found != values_.end()) return found->second;
  const std::string close = nearest(key, keys());
  throw Error(ExitCode::kConfig, {.what = "metadata " + in_quotes(key) + " is missing",
                                  .where = path().string(),
                                  .remedy = close.empty() ? "is this a model that llama.cpp runs?"
                                                          : "there is " + in_quotes(close)});
}

void GgufFile::refuse_type(const std::string& key, const char* expected) const {
  const Value& found = value(key);
  throw Error(ExitCode::kBadData, {.what = cat("metadata ", in_quotes(key), " is ",
                                               found.is_array ? "an array of type " : "of type ",
                                               name_of(found.type), ", at byte ", found.begin),
                                   .where = path().string(),
                                   .remedy = cat("expected ", expected)});
}

const GgufFile::Value& GgufFile::value(const std::string& key,
                                       bool is_array,
                                       const char* expected) const {
  const Value& found = value(key);
  if (found.is_array != is_array) refuse_type(key, expected);
  return found;
}

std::string_view GgufFile::text(const std::string& key) const {
  const Value& found = value(key, false, "a text");
  if (found.type != GgufType::kString) refuse_type(key, "a text");
  return std::string_view(header_).substr(found.begin + 8, found.end - found.begin - 8);
}

bool GgufFile::flag(const std::string& key) const {
  const Value& found = value(key, false, "a bool");
  if (found.type != GgufType::kBool) refuse_type(key, "a bool");
  return header_[found.begin] != 0;
}

int64_t GgufFile::integer(const std::string& key) const {
  constexpr const char* kExpected = "an integer below 2^63";
  const Value& found = value(key, false, kExpected);
  if (!is_integer(found.type)) refuse_type(key, kExpected);
  const int64_t number = integer_at(&header_[found.begin], found.type);
  if (found.type == GgufType::kUint64 && number < 0) refuse_type(key, kExpected);
  return number;
}

double GgufFile::number(const std::string& key) const {
  const Value& found = value(key, false, "a float");
  if (found.type == GgufType::kFloat64) return value_at<double>(&header_[found.begin]);
  if (found.type != GgufType::kFloat32) refuse_type(key, "a float");
  return as_stored_float32(value_at<float>(&header_[found.begin]));
}

std::vector<std::string_view> GgufFile::texts(const std::string& key) const {
  const Value& found = value(key, true, "an array of texts");
  if (found.type != GgufType::kString) refuse_type(key, "an array of texts");
  std::vector<std::string_view> out;
  out.reserve(found.count);
  for (size_t at = found.begin; at < found.end;) {
    const auto length = value_at<uint64_t>(&header_[at]);
    out.push_back(std::string_view(header_).substr(at + 8, length));
    at += 8 + length;
  }
  return out;
}

std::vector<int64_t> GgufFile::integers(const std::string& key) const {
  constexpr const char* kExpected = "an array of integers below 2^63";
  const Value& found = value(key, true, kExpected);
  if (!is_integer(found.type)) refuse_type(key, kExpected);
  std::vector<int64_t> out;
  out.reserve(found.count);
  for (size_t at = found.begin; at < found.end; at += bytes_of(found.type)) {
    out.push_back(integer_at(&header_[at], found.type));
    if (found.type == GgufType::kUint64 && out.back() < 0) refuse_type(key, kExpected);
  }
  return out;
}

std::vector<float> GgufFile::numbers(const std::string& key) const {
  constexpr const char* kExpected = "an array of type float32";
  const Value& found = value(key, true, kExpected);
  if (found.type != GgufType::kFloat32) refuse_type(key, kExpected);
  std::vector<float> out(found.count);
  std::memcpy(out.data(), header_.data() + found.begin, found.end - found.begin);
  return out;
}

}  // namespace kvsmith
