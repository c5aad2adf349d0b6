#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "report/chart_scale.h"
#include "report/svg.h"

namespace kvsmith {

inline constexpr size_t kColours = 8;
inline constexpr double kFontSize = 12;

/// A coordinate: one decimal is a tenth of a pixel.
std::string px(double value);
/// `content` is markup; y is its middle.
std::string text_at(double x, double y, std::string_view attributes, std::string_view content);
std::string line_from(double x0, double y0, double x1, double y1, std::string_view css_class);
/// The opening tag of a chart; `description` is what is read aloud in its place.
std::string open_svg(ChartSize size, const std::string& description);
/// The mark of a run around a point.
std::string shape(size_t run, double x, double y, double radius, bool filled);
/// Grid lines and numbers of both axes, and what they count: y above its axis and not along it, so
/// that nobody has to turn the head.
std::string axes(const ChartScale& x,
                 const ChartScale& y,
                 std::string_view x_unit,
                 std::string_view y_unit);

}  // namespace kvsmith
