#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/settings.h"

namespace kvsmith {

/// Everything there is to know about one configuration key besides its default, which is the
/// member's initial value.
struct Key {
  std::string_view name;
  std::string_view help;
  double min = -std::numeric_limits<double>::infinity();  ///< numbers only
  double max = std::numeric_limits<double>::infinity();
  std::vector<std::string_view> choices = {};  ///< strings only; empty: any
  bool shapes_result = true;                   ///< false: a resumed run may change it freely
};

/// A struct whose members are listed once, in a static `fields(self, visit)` that calls
/// `visit(Key, member)` for each. That one list drives parsing, checking, `--set`, help, docs and
/// the copy stored with a checkpoint.
template <class T>
concept Described = requires(T& t) { T::fields(t, [](const Key&, auto&) {}); };

/// A key's problems found while reading, so that all are reported at once.
struct Complaint {
  std::string where;  ///< "tiny.toml:3:1: model.hidden_siz"
  std::string text;
};

namespace detail {

bool read(const Value& value, bool& out);
bool read(const Value& value, int64_t& out);
bool read(const Value& value, double& out);
bool read(const Value& value, std::string& out);

/// A list; a single value stands for a list of one.
template <class T>
bool read(const Value& value, std::vector<T>& out) {
  const auto* list = std::get_if<Value::List>(&value.data);
  const Value::List one = list ? Value::List{} : Value::List{value};
  out.clear();
  for (const Value& item : list ? *list : one) {
    T element{};
    if (!read(item, element)) return false;
    out.push_back(std::move(element));
  }
  return true;
}

std::string expected(const bool&, const Key& key);
std::string expected(const int64_t&, const Key& key);
std::string expected(const double&, const Key& key);
std::string expected(const std::string&, const Key& key);
template <class T>
std::string expected(const std::vector<T>&, const Key& key) {
  return "a list, each item " + expected(T{}, key);
}

inline bool in_range(const bool&, const Key&) { return true; }
bool in_range(const int64_t& v, const Key& key);
bool in_range(const double& v, const Key& key);
bool in_range(const std::string& v, const Key& key);
template <class T>
bool in_range(const std::vector<T>& v, const Key& key) {
  for (const T& item : v) {
    if (!in_range(item, key)) return false;
  }
  return true;
}

/// What is wrong with `path`; empty where it is a key of the section.
std::string unknown_key(const std::string& path,
                        const std::string& section,
                        const std::vector<std::string>& names);
/// One Error (78) of all; returns where there are none.
void throw_all(const std::vector<Complaint>& complaints);

template <class T>
Value to_value(const T& v) {
  return {v};
}
template <class T>
Value to_value(const std::vector<T>& items) {
  Value::List list;
  for (const T& item : items) list.push_back(to_value(item));
  return {std::move(list)};
}

}  // namespace detail

/// Reads the keys of `section` over the members of `out`; notes wrong types and ranges.
template <Described T>
void read_section(const Settings& settings,
                  const std::string& section,
                  T& out,
                  std::vector<Complaint>& complaints) {
  T::fields(out, [&](const Key& key, auto& member) {
    const std::string path = section + "." + std::string(key.name);
    const Setting* setting = settings.find(path);
    if (!setting) return;
    std::remove_cvref_t<decltype(member)> value{};
    if (detail::read(setting->value, value) && detail::in_range(value, key)) {
      member = std::move(value);
    } else {
      complaints.push_back(
          {setting->where + ": " + path,
           "found " + to_toml(setting->value) + ", expected " + detail::expected(value, key)});
    }
  });
}

/// One key of a section with its present value, for writing, help and docs.
struct KeyValue {
  Key key;
  std::string path;  ///< "train.seed"
  Value value;
  std::string expected;  ///< "a whole number >= 1"
};

/// All keys of `section` in order of declaration.
template <Described T>
std::vector<KeyValue> list_section(const std::string& section, const T& value) {
  std::vector<KeyValue> out;
  T::fields(value, [&](const Key& key, const auto& member) {
    out.push_back({key, section + "." + std::string(key.name), detail::to_value(member),
                   detail::expected(member, key)});
  });
  return out;
}

/// A struct from settings that have this section and nothing else. Throws Error (78) with all
/// complaints: unknown keys with the nearest name, wrong types, values out of range.
template <Described T>
T only_section(const Settings& settings, const std::string& section) {
  T out;
  std::vector<std::string> names;
  std::vector<Complaint> complaints;
  T::fields(out, [&](const Key& key, const auto&) { names.emplace_back(key.name); });
  for (const auto& [path, setting] : settings.entries()) {
    if (auto problem = detail::unknown_key(path, section, names); !problem.empty())
      complaints.push_back({setting.where, std::move(problem)});
  }
  read_section(settings, section, out, complaints);
  detail::throw_all(complaints);
  return out;
}

}  // namespace kvsmith
