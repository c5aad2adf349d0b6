#include "core/fields.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith::detail {
namespace {

/// 16777216 rather than 1.67772e+07.
std::string limit(double value) {
  constexpr double kExact = 9007199254740992.0;
  return value == std::floor(value) && std::abs(value) < kExact ? cat(static_cast<int64_t>(value))
                                                                : cat(value);
}

std::string range(const Key& key) {
  const bool low = std::isfinite(key.min), high = std::isfinite(key.max);
  if (low && high) return cat(" from ", limit(key.min), " to ", limit(key.max));
  if (low) return cat(" >= ", limit(key.min));
  if (high) return cat(" <= ", limit(key.max));
  return "";
}

template <class T>
bool read_exact(const Value& value, T& out) {
  const T* v = std::get_if<T>(&value.data);
  if (v) out = *v;
  return v != nullptr;
}

}  // namespace

bool read(const Value& value, bool& out) { return read_exact(value, out); }
bool read(const Value& value, int64_t& out) {
  if (read_exact(value, out)) return true;
  const double* real = std::get_if<double>(&value.data);  // 1e9 is how people write token budgets
  if (!real || *real != std::floor(*real) || std::abs(*real) > 9007199254740992.0) return false;
  out = static_cast<int64_t>(*real);
  return true;
}
bool read(const Value& value, double& out) {
  if (const auto* whole = std::get_if<int64_t>(&value.data)) {
    out = static_cast<double>(*whole);
    return true;
  }
  return read_exact(value, out);
}
bool read(const Value& value, std::string& out) { return read_exact(value, out); }

std::string expected(const bool&, const Key&) { return "true or false"; }
std::string expected(const int64_t&, const Key& key) { return "a whole number" + range(key); }
std::string expected(const double&, const Key& key) { return "a number" + range(key); }
std::string expected(const std::string&, const Key& key) {
  if (key.choices.empty()) return "a string";
  std::string out = "one of";
  for (const auto choice : key.choices) out += cat(" \"", choice, "\"");
  return out;
}

bool in_range(const int64_t& v, const Key& key) {
  return static_cast<double>(v) >= key.min && static_cast<double>(v) <= key.max;
}
bool in_range(const double& v, const Key& key) { return v >= key.min && v <= key.max; }
bool in_range(const std::string& v, const Key& key) {
  return key.choices.empty() || std::ranges::find(key.choices, v) != key.choices.end();
}

std::string unknown_key(const std::string& path,
                        const std::string& section,
                        const std::vector<std::string>& names) {
  const size_t dot = path.find('.');
  const std::string name = dot == path.npos ? path : path.substr(dot + 1);
  const bool in_section = dot != path.npos && path.substr(0, dot) == section;
  if (in_section && std::ranges::find(names, name) != names.end()) return {};
  if (!in_section && std::ranges::find(names, name) != names.end())
    return cat("unknown key \"", path, "\"; write \"", section, ".", name, "\"");
  return cat("unknown key \"", path, "\"; ", suggestion(name, names));
}

void throw_all(const std::vector<Complaint>& complaints) {
  if (complaints.empty()) return;
  std::vector<std::string> lines;
  for (const auto& complaint : complaints) lines.push_back(complaint.where + ": " + complaint.text);
  throw Error(ExitCode::kConfig, {join(lines, "\n"), "", ""});
}

}  // namespace kvsmith::detail
