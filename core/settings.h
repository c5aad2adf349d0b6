#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace kvsmith {

/// A value of a configuration key. Lists hold values of one kind.
struct Value {
  using List = std::vector<Value>;
  std::variant<bool, int64_t, double, std::string, List> data;

  bool operator==(const Value&) const = default;
};

/// `value` as TOML text: true, 3, 0.1, "text", [1, 2]. Reading it back gives the same value.
std::string to_toml(const Value& value);

/// A value and the place that set it.
struct Setting {
  Value value;
  std::string where;  ///< "tiny.toml:12:1", or "--set"
};

/// Configuration as it was written: "section.key" to setting. Files have two levels at most, so a
/// flat map holds them and merging is overwriting.
class Settings {
 public:
  /// Reads a TOML file of at most 1 MiB. `include = "base.toml"` (or a list), relative to the file,
  /// is read first. Throws Error 66 for a missing file, 78 with file:line:column otherwise.
  static Settings from_file(const std::filesystem::path& path);
  /// `source` names the text in errors.
  static Settings from_text(std::string_view text, const std::string& source);

  /// Takes over every key of `newer`.
  void merge(const Settings& newer);
  /// `assignment` is "section.key=value"; the value is TOML, or a bare word taken as a string.
  /// Throws Error 64.
  void set(const std::string& assignment);

  const Setting* find(const std::string& key) const;
  const std::map<std::string, Setting>& entries() const { return entries_; }

 private:
  std::map<std::string, Setting> entries_;
};

}  // namespace kvsmith
