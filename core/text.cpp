#include "core/text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <numeric>

namespace kvsmith {
namespace {

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t above = row[j + 1];
      row[j + 1] = std::min({above + 1, row[j] + 1, diagonal + (a[i] != b[j] ? 1 : 0)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

std::string scaled(double value, double base, const std::vector<const char*>& units) {
  size_t unit = 0;
  while (value >= base && unit + 1 < units.size()) {
    value /= base;
    ++unit;
  }
  const int digits = unit == 0 ? 0 : value < 10 ? 2 : 1;
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.*f%s", digits, value, units[unit]);
  return text.data();
}

}  // namespace

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string out;
  for (const auto& part : parts) {
    if (&part != parts.data()) out += separator;
    out += part;
  }
  return out;
}

std::string printable(std::string_view text) {
  constexpr size_t kLongest = 2000;
  std::string out;
  for (const char c : text.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte >= 0x20 && byte != 0x7f) || c == '\n') {
      out += c;
    } else {
      std::array<char, 8> hex{};
      std::snprintf(hex.data(), hex.size(), "\\x%02x", byte);
      out += hex.data();
    }
  }
  return text.size() > kLongest ? out + "..." : out;
}

std::string in_quotes(std::string_view text) {
  constexpr size_t kLongest = 128;
  return cat('"', text.substr(0, kLongest), text.size() > kLongest ? "...\"" : "\"");
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::vector<std::string> sizes;
  for (const int64_t size : shape) sizes.push_back(std::to_string(size));
  return "[" + join(sizes) + "]";
}

std::string human_bytes(double bytes) {
  return scaled(bytes, 1024, {" B", " KiB", " MiB", " GiB", " TiB"});
}

std::string human_count(double count) { return scaled(count, 1000, {"", "K", "M", "B", "T"}); }

std::string human_flop(double operations) {
  return scaled(operations, 1000, {" FLOP", " kFLOP", " MFLOP", " GFLOP", " TFLOP", " PFLOP"});
}

std::string human_seconds(double seconds) {
  const auto whole = std::llround(seconds);
  std::array<char, 64> text{};
  if (whole >= 3600) {
    std::snprintf(text.data(), text.size(), "%lld:%02lld:%02lld", whole / 3600, whole / 60 % 60,
                  whole % 60);
  } else {
    std::snprintf(text.data(), text.size(), "%lld:%02lld", whole / 60, whole % 60);
  }
  return text.data();
}

std::string nearest(std::string_view wanted, const std::vector<std::string>& candidates) {
  std::string best;
  for (const auto& candidate : candidates) {
    const bool shorter = best.empty() || candidate.size() < best.size();
    if (!wanted.empty() && candidate.starts_with(wanted) && shorter) best = candidate;
  }
  if (!best.empty()) return best;
  size_t smallest = std::min<size_t>(3, (wanted.size() + 1) / 3) + 1;
  for (const auto& candidate : candidates) {
    const size_t distance = edit_distance(wanted, candidate);
    if (distance < smallest) {
      smallest = distance;
      best = candidate;
    }
  }
  return best;
}

std::string suggestion(std::string_view wanted, const std::vector<std::string>& candidates) {
  const std::string close = nearest(wanted, candidates);
  return close.empty() ? "valid: " + join(candidates) : "did you mean \"" + close + "\"?";
}

}  // namespace kvsmith
