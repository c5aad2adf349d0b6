#include <algorithm>
#include <cmath>
#include <iterator>

#include "core/text.h"
#include "report/chart_scale.h"
#include "report/label_placement.h"
#include "report/svg.h"
#include "report/svg_parts.h"

namespace kvsmith {
namespace {

constexpr size_t kCrowd = 15;  // points, from which on not all can be told of

/// The corners of the front as a staircase: at each number of bytes, the best that they buy.
std::vector<Box> staircase(const std::vector<PlanePoint>& points,
                           const ChartScale& x,
                           const ChartScale& y) {
  std::vector<PlanePoint> front;
  std::ranges::copy_if(points, std::back_inserter(front), &PlanePoint::on_front);
  std::ranges::sort(front, {}, &PlanePoint::bytes);
  std::vector<Box> steps;
  for (size_t i = 0; i + 1 < front.size(); ++i) {
    const double x0 = x.at(front[i].bytes), x1 = x.at(front[i + 1].bytes);
    const double y0 = y.at(front[i].y), y1 = y.at(front[i + 1].y);
    steps.push_back({x0, y0, x1, y0});
    steps.push_back({x1, y0, x1, y1});
  }
  return steps;
}

/// One path, which a script can replace.
std::string front_path(const std::vector<Box>& steps) {
  if (steps.empty()) return {};
  std::string path = cat("M", px(steps[0].left), " ", px(steps[0].top));
  for (const Box& step : steps) path += cat("L", px(step.right), " ", px(step.bottom));
  return cat("<path class=\"front\" d=\"", path, "\"/>");
}

/// A method that fails must not flatten the differences of the others.
double highest_shown(const PlaneChart& chart) {
  constexpr double kFar = 1.25;
  std::vector<double> heights;
  for (const auto& point : chart.points) heights.push_back(point.y);
  std::ranges::sort(heights);
  if (chart.higher_is_better || heights.size() <= kCrowd || heights.front() <= 0)
    return heights.back();
  return std::min(heights.back(), kFar * heights[heights.size() * 3 / 4]);
}

ChartScale y_scale(const PlaneChart& chart, double from, double to) {
  constexpr int kMostTicks = 6;
  const auto [least, most] = std::ranges::minmax(chart.points, {}, &PlanePoint::y);
  if (!chart.higher_is_better)
    return make_scale(least.y, highest_shown(chart), AxisUnit::kPlain, from, to, kMostTicks);
  // Shares stand on zero, with room for a mark that lies there.
  const double top = std::max(most.y, 0.01);
  return make_linear_scale(-0.05 * top, 1.08 * top, AxisUnit::kPlain, from, to, kMostTicks);
}

/// What scripts need to filter and to draw the front again.
std::string data_of(const PlanePoint& point, const Labelled& mark, bool higher_is_better) {
  if (!point.row) return {};
  return cat(" data-point=\"", *point.row, "\" data-bytes=\"", fixed(point.bytes, 3),
             "\" data-cost=\"", fixed(higher_is_better ? -point.y : point.y, 9), "\" data-x=\"",
             px(mark.x), "\" data-y=\"", px(mark.y), "\"");
}

struct Plane {
  std::string content;
  std::string description;
};

std::string described(const PlaneChart& chart) {
  std::vector<std::string> texts;
  const bool crowded = chart.points.size() > kCrowd;
  for (const auto& point : chart.points) {
    if (crowded && !point.on_front) continue;
    std::string text = point.hover;
    for (size_t at = 0; (at = text.find('\n', at)) != text.npos;) text.replace(at, 1, ", ");
    texts.push_back(std::move(text));
  }
  return cat(chart.title.empty() ? "" : chart.title + ". ", chart.y, " over bytes of ",
             chart.bytes_of, ", measured. ",
             crowded ? cat(chart.points.size(), " points. Best at their size: ") : "",
             join(texts, ". "));
}

/// The chart inside `frame`, which includes the room for numbers and units.
Plane draw_plane(const PlaneChart& chart, const Box& frame) {
  const auto& points = chart.points;
  const auto [least_bytes, most_bytes] = std::ranges::minmax(points, {}, &PlanePoint::bytes);
  const double width = frame.right - frame.left;
  const bool narrow = width < 500;
  const ChartScale x = make_scale(least_bytes.bytes, most_bytes.bytes, AxisUnit::kBytes,
                                  frame.left + 44, frame.right - 14, narrow ? 5 : 8);
  const ChartScale y = y_scale(chart, frame.bottom - 48, frame.top + 34);

  const auto far =
      std::ranges::count_if(points, [&](const PlanePoint& point) { return point.y > y.high; });
  Plane plane{.content = axes(x, y,
                              cat("<tspan>", escape_markup(chart.bytes_of), "</tspan>, measured",
                                  x.logarithmic ? ", log₂ scale" : ""),
                              cat("<tspan>", escape_markup(chart.y), "</tspan>",
                                  y.logarithmic ? ", log scale" : "",
                                  far > 0 ? cat(", ", far, " far above at the edge") : "",
                                  chart.higher_is_better ? ", higher" : ", lower", " is better")),
              .description = described(chart)};
  const auto steps = chart.with_front ? staircase(points, x, y) : std::vector<Box>{};
  plane.content += front_path(steps);

  // Those on the front choose their places first.
  std::vector<PlanePoint> ordered = points;
  std::ranges::stable_partition(ordered, &PlanePoint::on_front);
  std::vector<Labelled> marks;
  for (auto& point : ordered) {
    point.label = shorten(point.label, width < 400 ? 20 : narrow ? 26 : 32);
    marks.push_back(
        {x.at(point.bytes), y.at(std::min(point.y, y.high)), text_width(point.label, kFontSize)});
  }
  std::vector<Box> lines;
  for (const Box& s : steps) {
    lines.push_back({std::min(s.left, s.right) - 2, std::min(s.top, s.bottom) - 2,
                     std::max(s.left, s.right) + 2, std::max(s.top, s.bottom) + 2});
  }
  const auto places =
      place_labels(marks, {x.from + 2, y.to - 12, frame.right - 2, y.from - 2}, lines);

  // In a crowd the neighbours' targets would cover the mark.
  const double reach = points.size() > kCrowd ? 7 : 14;
  for (size_t i = ordered.size(); i-- > 0;) {
    const PlanePoint& point = ordered[i];
    plane.content += cat("<g class=\"run c", point.run % kColours, point.on_front ? "" : " dim",
                         "\"", data_of(point, marks[i], chart.higher_is_better), "><title>",
                         escape_markup(point.hover), "</title>");
    if (places[i] && places[i]->needs_leader) {
      plane.content += line_from(marks[i].x, marks[i].y, places[i]->x, places[i]->y, "leader");
    }
    plane.content += cat("<circle class=\"target\" cx=\"", px(marks[i].x), "\" cy=\"",
                         px(marks[i].y), "\" r=\"", px(reach), "\"/>");
    plane.content += shape(point.run, marks[i].x, marks[i].y, 5, point.on_front);
    if (places[i]) {
      plane.content += text_at(places[i]->x, places[i]->y,
                               cat("class=\"halo\" text-anchor=\"", places[i]->anchor, "\""),
                               escape_markup(point.label));
    }
    plane.content += "</g>\n";
  }
  return plane;
}

}  // namespace

std::string plane_svg(const PlaneChart& chart, ChartSize size) {
  const Plane plane = draw_plane(chart, {0, 0, size.width, size.height});
  return cat(open_svg(size, plane.description), plane.content, "</svg>\n");
}

std::string standalone_svg(const std::vector<PlaneChart>& charts, const std::string& title) {
  constexpr double kSide = 24, kHead = 56, kFoot = 18, kSubtitle = 26;
  const bool several = charts.size() > 1;
  const ChartSize each = several ? ChartSize{450, 380} : ChartSize{712, 396};
  const size_t columns = several ? 2 : 1, rows = (charts.size() + columns - 1) / columns;
  const double pitch = each.height + (several ? kSubtitle : 0);
  const ChartSize size{2 * kSide + static_cast<double>(columns) * each.width,
                       kHead + static_cast<double>(rows) * pitch + kFoot};
  std::string content, description = title;
  for (size_t i = 0; i < charts.size(); ++i) {
    const double left = kSide + static_cast<double>(i % columns) * each.width;
    const size_t row = i / columns + 1;
    const double bottom = kHead + static_cast<double>(row) * pitch;
    if (several) {
      content += text_at(left + 2, bottom - pitch + 12, "class=\"subtitle\"",
                         escape_markup(shorten(charts[i].title, 60)));
    }
    const Plane plane =
        draw_plane(charts[i], {left, bottom - each.height, left + each.width, bottom});
    content += plane.content;
    description += ". " + plane.description;
  }
  return cat(open_svg(size, description), "<style>", chart_css(),
             "</style>\n<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"var(--paper)\"/>\n",
             text_at(26, 34, "class=\"heading\"", escape_markup(shorten(title, 80))), content,
             "</svg>\n");
}

}  // namespace kvsmith
