#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

namespace kvsmith {

/// A value's text as a message shows it: its first 80 bytes.
std::string shortened(const std::string& json);

/// 65: `error` as people read it.
[[noreturn]] void throw_damaged_json(const nlohmann::json::exception& error,
                                     const std::string& where);

/// A value in a JSON file that others wrote, which knows its path, so that whatever is wrong with
/// it is an Error naming file, path ("model.merges[3]"), what was found and what is expected.
/// Points into the parsed document, which must outlive it.
class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, std::string where, std::string path = "")
      : value_(&value), where_(std::move(where)), path_(std::move(path)) {}

  /// The member of an object; throws 65 where it is missing.
  JsonNode at(const std::string& key) const;
  /// The member of an object; nothing where it is missing or null.
  std::optional<JsonNode> find(const std::string& key) const;
  /// The element of an array.
  JsonNode operator[](size_t index) const;

  // Each throws 65 for a value of another type.
  const std::string& text() const;
  bool boolean() const;
  int64_t integer(int64_t least, int64_t most) const;
  double number(double least, double most) const;
  /// Elements of an array.
  size_t size() const;
  const nlohmann::json& object() const;

  bool is_array() const { return value_->is_array(); }
  bool is_object() const { return value_->is_object(); }
  /// Throws 78 for an object with any other key.
  void expect_only(std::initializer_list<std::string_view> keys) const;
  /// Throws 78 unless the member is missing, null, or `value`, which is why the rest of the program
  /// need not know it.
  void expect_member(const std::string& key, const nlohmann::json& value) const;

  /// "tokenizer.json: model.merges[3]".
  std::string place() const;
  /// 65: not what such a file may hold.
  [[noreturn]] void damaged(const std::string& expected) const;
  /// 78: valid, and not supported.
  [[noreturn]] void unsupported(const std::string& expected) const;

 private:
  std::string found() const;

  const nlohmann::json* value_;
  std::string where_, path_;
};

/// What `read` makes of a document; where it needs a member that is missing or of another type, an
/// Error (65) naming `where`.
template <class Read>
auto read_json_of(const std::string& where, const Read& read) {
  try {
    return read();
  } catch (const nlohmann::json::exception& error) {
    throw_damaged_json(error, where);
  }
}

/// Parses one JSON document of at most `most_levels` objects and arrays within each other, as
/// copies and comparisons of values go down by recursion. Throws 65, naming `where`, for anything
/// else.
nlohmann::json parse_json(std::string_view text, int most_levels, const std::string& where);
/// The same, with members in the order of the text.
nlohmann::ordered_json parse_ordered_json(std::string_view text,
                                          int most_levels,
                                          const std::string& where);

}  // namespace kvsmith
