#include "core/settings.h"

#include <array>
#include <charconv>
#include <cmath>
#include <sstream>

#include <toml++/toml.h>

#include "core/error.h"
#include "core/files.h"
#include "core/text.h"

namespace kvsmith {
namespace {

constexpr uint64_t kLargestFile = uint64_t{1} << 20;
constexpr size_t kDeepestInclude = 8;

std::string place(const std::string& source, const toml::source_region& region) {
  return cat(source, ":", region.begin.line, ":", region.begin.column);
}

Value value_of(const toml::node& node, const std::string& where) {
  if (const auto* v = node.as_boolean()) return {v->get()};
  if (const auto* v = node.as_integer()) return {v->get()};
  if (const auto* v = node.as_floating_point()) {
    if (std::isfinite(v->get())) return {v->get()};
    throw Error(ExitCode::kConfig, {"a number that is not finite", where, "write a finite number"});
  }
  if (const auto* v = node.as_string()) return {v->get()};
  if (const auto* v = node.as_array()) {
    Value::List list;
    for (const auto& item : *v) list.push_back(value_of(item, where));
    return {std::move(list)};
  }
  throw Error(ExitCode::kConfig, {"a value of a kind that no key takes", where,
                                  "write true/false, a number, a string or a list of these"});
}

toml::table parse(std::string_view text, const std::string& source) {
  try {
    return toml::parse(text, source);
  } catch (const toml::parse_error& error) {
    throw Error(ExitCode::kConfig, {std::string(error.description()), place(source, error.source()),
                                    "write valid TOML"});
  }
}

std::vector<std::string> includes_of(const toml::node& node, const std::string& where) {
  const Value value = value_of(node, where);
  std::vector<std::string> names;
  const auto add = [&](const Value& item) {
    if (const auto* name = std::get_if<std::string>(&item.data)) return names.push_back(*name);
    throw Error(ExitCode::kConfig, {"include is not a file name", where,
                                    "write include = \"base.toml\" or a list of names"});
  };
  if (const auto* list = std::get_if<Value::List>(&value.data)) {
    for (const auto& item : *list) add(item);
  } else {
    add(value);
  }
  return names;
}

using Entries = std::map<std::string, Setting>;

void read_into(Entries& entries,
               std::string_view text,
               const std::string& source,
               const std::filesystem::path& folder,
               size_t depth);

void read_file_into(Entries& entries,
                    const std::filesystem::path& path,
                    size_t depth,
                    const std::string& included_at) {
  if (depth > kDeepestInclude) {
    throw Error(ExitCode::kConfig, {cat("includes are nested more than ", kDeepestInclude, " deep"),
                                    included_at, "does a file include itself?"});
  }
  read_into(entries, read_file(path, kLargestFile), path.string(), path.parent_path(), depth);
}

void read_into(Entries& entries,
               std::string_view text,
               const std::string& source,
               const std::filesystem::path& folder,
               size_t depth) {
  const toml::table table = parse(text, source);
  if (const auto* node = table.get("include")) {
    const std::string where = place(source, node->source());
    for (const auto& name : includes_of(*node, where)) {
      read_file_into(entries, folder / name, depth + 1, where);
    }
  }
  for (const auto& [key, node] : table) {
    const std::string section(key.str());
    if (section == "include") continue;
    if (const auto* members = node.as_table()) {
      for (const auto& [name, member] : *members) {
        const std::string where = place(source, name.source());
        if (member.is_table()) {
          throw Error(ExitCode::kConfig,
                      {cat("table [", section, ".", name.str(), "] is nested too deep"), where,
                       "keys live in sections, one level deep"});
        }
        entries[section + "." + std::string(name.str())] = {value_of(member, where), where};
      }
    } else {
      entries[section] = {value_of(node, place(source, key.source())), place(source, key.source())};
    }
  }
}

}  // namespace

std::string to_toml(const Value& value) {
  struct Writer {
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(int64_t v) const { return std::to_string(v); }
    std::string operator()(double v) const {
      std::array<char, 64> text{};
      const auto end = std::to_chars(text.data(), text.data() + text.size(), v).ptr;
      std::string out(text.data(), end);
      if (out.find_first_of(".e") == std::string::npos) out += ".0";
      return out;
    }
    std::string operator()(const std::string& v) const {
      std::ostringstream out;
      out << toml::toml_formatter(toml::value<std::string>(v),
                                  toml::toml_formatter::default_flags &
                                      ~toml::format_flags::allow_literal_strings &
                                      ~toml::format_flags::allow_multi_line_strings);
      return std::move(out).str();
    }
    std::string operator()(const Value::List& v) const {
      std::vector<std::string> items;
      for (const auto& item : v) items.push_back(to_toml(item));
      return "[" + join(items) + "]";
    }
  };
  return std::visit(Writer{}, value.data);
}

Settings Settings::from_file(const std::filesystem::path& path) {
  Settings out;
  read_file_into(out.entries_, path, 0, "");
  return out;
}

Settings Settings::from_text(std::string_view text, const std::string& source) {
  Settings out;
  read_into(out.entries_, text, source, {}, 0);
  return out;
}

void Settings::merge(const Settings& newer) {
  for (const auto& [key, setting] : newer.entries_) entries_[key] = setting;
}

void Settings::set(const std::string& assignment) {
  const auto equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0) {
    throw Error(ExitCode::kUsage, {"\"" + assignment + "\" is not an assignment", "--set",
                                   "write section.key=value, such as train.seed=1"});
  }
  const std::string key = assignment.substr(0, equals), text = assignment.substr(equals + 1);
  Value value{text};  // a bare word such as cosine is a string
  try {
    value = value_of(*toml::parse("v = " + text).get("v"), "--set " + key);
  } catch (const toml::parse_error&) {
    if (text.find_first_of("[]\"'{}") != std::string::npos) {
      throw Error(ExitCode::kUsage,
                  {"cannot read the value " + text, "--set " + key, "write it as in TOML"});
    }
  }
  entries_[key] = {std::move(value), "--set"};
}

const Setting* Settings::find(const std::string& key) const {
  const auto found = entries_.find(key);
  return found == entries_.end() ? nullptr : &found->second;
}

}  // namespace kvsmith
