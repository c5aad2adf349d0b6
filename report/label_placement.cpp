#include "report/label_placement.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <ranges>

namespace kvsmith {
namespace {

constexpr double kHalfHeight = 7.5;
constexpr double kMarkRadius = 6;
constexpr double kNear = 10;  // from a mark's centre to its label
constexpr double kRing = 15;  // further out when the near places are taken
constexpr int kRings = 14;
constexpr double kLineCost = 25;  // a label may cross a line when the next ring is no better

struct Direction {
  double dx, dy, cost;
};

// Right of the mark reads best; straight above and below come last because they hide slopes.
constexpr std::array<Direction, 8> kDirections = {{{1, 0, 0},
                                                   {0.7, -1, 2},
                                                   {0.7, 1, 3},
                                                   {-1, 0, 4},
                                                   {-0.7, -1, 5},
                                                   {-0.7, 1, 6},
                                                   {0, -1.4, 7},
                                                   {0, 1.4, 8}}};

Box box_of(const Placement& at, double width) {
  const std::string_view anchor = at.anchor;
  const double left = anchor == "start" ? at.x : anchor == "end" ? at.x - width : at.x - width / 2;
  return {left, at.y - kHalfHeight, left + width, at.y + kHalfHeight};
}

bool inside(const Box& box, const Box& area) {
  return box.left >= area.left && box.right <= area.right && box.top >= area.top &&
         box.bottom <= area.bottom;
}

bool any_overlap(const Box& box, const std::vector<Box>& others) {
  return std::ranges::any_of(others, [&](const Box& other) { return overlap(box, other); });
}

/// A slanted line as a row of small boxes, so that everything a label may hit is a box.
std::vector<Box> boxes_along(double x0, double y0, double x1, double y1) {
  const int pieces = std::max(2, static_cast<int>(std::hypot(x1 - x0, y1 - y0) / 4));
  std::vector<Box> boxes;
  for (int i = 1; i < pieces; ++i) {
    const double x = x0 + (x1 - x0) * i / pieces, y = y0 + (y1 - y0) * i / pieces;
    boxes.push_back({x - 1, y - 1, x + 1, y + 1});
  }
  return boxes;
}

}  // namespace

bool overlap(const Box& a, const Box& b) {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

std::vector<std::optional<Placement>> place_labels(const std::vector<Labelled>& marks,
                                                   const Box& area,
                                                   const std::vector<Box>& lines) {
  std::vector<Box> taken, soft = lines;
  for (const Labelled& mark : marks) {
    taken.push_back(
        {mark.x - kMarkRadius, mark.y - kMarkRadius, mark.x + kMarkRadius, mark.y + kMarkRadius});
  }
  std::vector<Box> labels;
  std::vector<std::optional<Placement>> placed;
  for (const Labelled& mark : marks) {
    if (mark.width <= 0) {
      placed.emplace_back();
      continue;
    }
    double least = std::numeric_limits<double>::infinity();
    std::optional<Placement> best;
    for (int ring = 0; ring < kRings && ring * kRing < least; ++ring) {
      for (const Direction& direction : kDirections) {
        const double distance = kNear + ring * kRing;
        const Placement at{.x = mark.x + direction.dx * distance,
                           .y = mark.y + direction.dy * distance,
                           .anchor = direction.dx > 0   ? "start"
                                     : direction.dx < 0 ? "end"
                                                        : "middle",
                           .needs_leader = ring > 0};
        const Box box = box_of(at, mark.width);
        double cost = ring * kRing + direction.cost;
        if (cost >= least || !inside(box, area)) continue;
        if (any_overlap(box, taken) || any_overlap(box, labels)) continue;
        if (any_overlap(box, soft)) cost += kLineCost;
        if (at.needs_leader) {
          const auto leader = boxes_along(mark.x, mark.y, at.x, at.y);
          if (std::ranges::any_of(leader, [&](const Box& b) { return any_overlap(b, labels); })) {
            cost += 2 * kLineCost;
          }
        }
        if (cost < least) {
          least = cost;
          best = at;
        }
      }
    }
    if (best) {
      labels.push_back(box_of(*best, mark.width));
      if (best->needs_leader) {
        const auto leader = boxes_along(mark.x, mark.y, best->x, best->y);
        soft.insert(soft.end(), leader.begin(), leader.end());
      }
    }
    placed.push_back(best);
  }
  return placed;
}

std::vector<double> spread_labels(const std::vector<double>& wanted,
                                  double pitch,
                                  double top,
                                  double bottom) {
  std::vector<size_t> order(wanted.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t i) { return wanted[i]; });
  std::vector<double> y = wanted;
  double free_from = top;
  for (const size_t i : order) {
    y[i] = std::max(y[i], free_from);
    free_from = y[i] + pitch;
  }
  double free_to = bottom;
  for (const size_t i : std::views::reverse(order)) {
    y[i] = std::min(y[i], free_to);
    free_to = y[i] - pitch;
  }
  return y;
}

double text_width(std::string_view utf8, double font_size) {
  double ems = 0;
  for (const char c : utf8) {
    const auto byte = static_cast<unsigned char>(c);
    if ((byte & 0xC0) == 0x80) continue;
    const bool narrow = std::string_view(" .,:;'|!ijlIt()[]/").find(c) != std::string_view::npos;
    const bool wide = (c >= 'A' && c <= 'Z') || c == 'm' || c == 'w' || c == '@' || c == '&';
    ems += byte >= 0xE0 ? 1.0 : narrow ? 0.36 : wide ? 0.76 : 0.61;
  }
  return ems * font_size;
}

std::string shorten(std::string_view utf8, size_t most) {
  size_t characters = 0, cut = utf8.size();
  for (size_t i = 0; i < utf8.size(); ++i) {
    if ((static_cast<unsigned char>(utf8[i]) & 0xC0) == 0x80) continue;
    if (++characters == most) cut = i;
    if (characters > most) return std::string(utf8.substr(0, cut)) + "…";
  }
  return std::string(utf8);
}

}  // namespace kvsmith
