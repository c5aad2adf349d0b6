#pragma once

#include <string>
#include <vector>

namespace kvsmith {

/// What the numbers of an axis are; decides where ticks fall and how they read.
enum class AxisUnit { kPlain, kCount, kBytes };

/// Maps values to pixels along one axis of a chart.
struct ChartScale {
  struct Tick {
    double value;
    std::string label;  ///< "512 B", "1.5 KiB", "12.5", "20M"
  };

  bool logarithmic = false;
  double low = 0, high = 1;  ///< values at the ends, room to breathe included
  double from = 0, to = 1;   ///< pixels at low and high; from > to for an upright axis
  std::vector<Tick> ticks;   ///< ascending, inside [low, high]

  double at(double value) const;
};

/// A scale that shows `low` to `high`, finite, with at most about `most_ticks` ticks: logarithmic
/// when the range is wider than fourfold and all of it positive, else linear. Ticks of kBytes are
/// powers of two, or multiples of one.
ChartScale make_scale(
    double low, double high, AxisUnit unit, double from, double to, int most_ticks);
/// A linear scale from exactly `low` to exactly `high`.
ChartScale make_linear_scale(
    double low, double high, AxisUnit unit, double from, double to, int most_ticks);

/// `value` with a fixed number of decimals: "12.35".
std::string fixed(double value, int decimals);
/// Like human_bytes, without decimals that say nothing: "1 KiB", "1.5 KiB", "96 B".
std::string compact_bytes(double bytes);
/// Like human_count, without decimals that say nothing: "20M", "1.5M", "950".
std::string compact_count(double count);

}  // namespace kvsmith
