#include "report/chart_scale.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <initializer_list>

#include "core/text.h"

namespace kvsmith {
namespace {

constexpr double kMargin = 0.08;   // of the range, on either side
constexpr double kWidest = 1e120;  // high / low of a logarithmic axis; lower values stand at zero

/// "1.50 KiB" to "1.5 KiB", "20.0M" to "20M".
std::string without_idle_zeros(std::string text) {
  const size_t point = text.find('.');
  if (point == std::string::npos) return text;
  size_t end = point + 1;
  while (end < text.size() && text[end] >= '0' && text[end] <= '9') ++end;
  size_t keep = end;
  while (keep > point && (text[keep - 1] == '0' || text[keep - 1] == '.')) --keep;
  return text.erase(keep, end - keep);
}

std::string label_of(double value, AxisUnit unit, double step) {
  if (unit == AxisUnit::kBytes) return compact_bytes(value);
  // Three digits, as compact_count gives, must tell neighbours apart.
  const bool compact = std::abs(value) >= 1e4 && step >= std::abs(value) / 100;
  if (unit == AxisUnit::kCount || compact) return compact_count(value);
  const int decimals = std::clamp(static_cast<int>(-std::floor(std::log10(step) + 1e-9)), 0, 9);
  return fixed(value, decimals);
}

/// The smallest of 1, 2, 5 times a power of ten (a power of two for bytes) not below `rough`.
double nice_step(double rough, AxisUnit unit) {
  if (unit == AxisUnit::kBytes) return std::exp2(std::ceil(std::log2(rough) - 1e-9));
  const double decade = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (rough <= factor * decade * (1 + 1e-9)) return factor * decade;
  }
  return 10 * decade;
}

void add_linear_ticks(ChartScale& scale, AxisUnit unit, int most) {
  double step = nice_step((scale.high - scale.low) / most, unit);
  if (unit == AxisUnit::kCount) step = std::max(step, 1.0);
  const double first = std::ceil(scale.low / step - 1e-9);
  for (int i = 0; i <= most && (first + i) * step <= scale.high * (1 + 1e-12); ++i) {
    const double value = (first + i) * step;
    scale.ticks.push_back({value, label_of(value, unit, step)});
  }
}

void add_powers_of_two(ChartScale& scale, AxisUnit unit, int most) {
  const double octaves = std::log2(scale.high / scale.low);
  int stride = 10;
  for (const int candidate : {5, 2, 1}) {
    if (octaves / candidate <= most) stride = candidate;
  }
  while (octaves / stride > most) stride += 10;
  for (int power = stride * static_cast<int>(std::ceil(std::log2(scale.low) / stride));
       std::exp2(power) <= scale.high; power += stride) {
    scale.ticks.push_back({std::exp2(power), label_of(std::exp2(power), unit, 1)});
  }
}

/// 1-2-5 in each decade while that is few enough, then powers of ten.
void add_decimal_log_ticks(ChartScale& scale, AxisUnit unit, int most) {
  const double decades = std::log10(scale.high / scale.low);
  const bool fine = decades * 3 <= most + 1;
  const int stride = std::max(1, static_cast<int>(std::ceil(decades / most)));
  for (int power = static_cast<int>(std::floor(std::log10(scale.low)));
       std::pow(10, power) <= scale.high; power += fine ? 1 : stride) {
    for (const double factor : {1.0, 2.0, 5.0}) {
      const double value = factor * std::pow(10, power);
      if (value < scale.low || value > scale.high || (!fine && factor > 1)) continue;
      scale.ticks.push_back({value, label_of(value, unit, std::pow(10, power))});
    }
  }
}

}  // namespace

double ChartScale::at(double value) const {
  const double share =
      logarithmic ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low);
  return from + share * (to - from);
}

ChartScale make_linear_scale(
    double low, double high, AxisUnit unit, double from, double to, int most_ticks) {
  ChartScale scale{.low = low, .high = high, .from = from, .to = to, .ticks = {}};
  add_linear_ticks(scale, unit, most_ticks);
  return scale;
}

ChartScale make_scale(
    double low, double high, AxisUnit unit, double from, double to, int most_ticks) {
  if (low > 0 && high / low > 4 && high / low < kWidest) {
    const double room = std::pow(high / low, kMargin);
    ChartScale scale{.logarithmic = true,
                     .low = low / room,
                     .high = high * room,
                     .from = from,
                     .to = to,
                     .ticks = {}};
    if (unit == AxisUnit::kBytes) {
      add_powers_of_two(scale, unit, most_ticks);
    } else {
      add_decimal_log_ticks(scale, unit, most_ticks);
    }
    return scale;
  }
  // One value, or nearly, gets a range to stand in; for bytes "nearly" is what labels in KiB hide.
  const double size = std::max(std::abs(low), std::abs(high));
  const double narrowest = (unit == AxisUnit::kBytes ? 0.05 : 1e-6) * size;
  const double spread = high - low > narrowest ? (high - low) * kMargin : std::max(0.1 * size, 0.1);
  return make_linear_scale(low - spread, high + spread, unit, from, to, most_ticks);
}

std::string fixed(double value, int decimals) {
  if (std::abs(value) >= 1e15) return cat(value);
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
  return text.data();
}

std::string compact_bytes(double bytes) {
  const bool whole = bytes >= 1024 || bytes == std::floor(bytes);
  return whole ? without_idle_zeros(human_bytes(bytes))
               : without_idle_zeros(fixed(bytes, 2)) + " B";
}

std::string compact_count(double count) {
  return std::abs(count) < 1e15 ? without_idle_zeros(human_count(count)) : cat(count);
}

}  // namespace kvsmith
