#include "report/svg.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/text.h"
#include "report/chart_scale.h"
#include "report/label_placement.h"
#include "report/svg_parts.h"

namespace kvsmith {
namespace {

constexpr size_t kShapes = 8;
constexpr double kLabelPitch = 16;

// The eight colours stay apart in simulated protanopia, deuteranopia and tritanopia, and from the
// paper, in both themes. Screens only: paper is always light.
constexpr std::string_view kCss = R"css(
:root{--paper:#fff;--ink:#1b1f24;--muted:#5d646d;--hair:#e4e6ea;--front:#8d949e;
--c0:#0642c1;--c1:#dd2a1b;--c2:#008b56;--c3:#aa4ba1;--c4:#7b963e;--c5:#3b82ff;--c6:#652b24;--c7:#6c5a68}
@media screen and (prefers-color-scheme:dark){:root{
--paper:#0d1117;--ink:#e6e9ed;--muted:#9ba3ae;--hair:#252b34;--front:#727a86;
--c0:#46b3ff;--c1:#f89b5a;--c2:#60f4c8;--c3:#c45bc1;--c4:#e6ce29;--c5:#c1e1ff;--c6:#f06a79;--c7:#b499b7}}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}
.c4{--c:var(--c4)}.c5{--c:var(--c5)}.c6{--c:var(--c6)}.c7{--c:var(--c7)}
.chart{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.chart text{fill:var(--ink);dominant-baseline:central}
.chart .tick,.chart .unit,.chart .dim text{fill:var(--muted)}
.chart .tick{font-variant-numeric:tabular-nums}
.chart .unit tspan{fill:var(--ink);font-weight:600}
.chart .heading{font-size:15px;font-weight:600}
.chart .subtitle{font-size:13px;font-weight:600}
.chart .grid{stroke:var(--hair);fill:none;shape-rendering:crispEdges}
.chart .front{stroke:var(--front);fill:none;stroke-width:1.5}
.chart .leader{stroke:var(--front);stroke-width:.75}
.chart .halo{stroke:var(--paper);stroke-width:4;stroke-linejoin:round;paint-order:stroke}
.chart .target{fill:transparent}
.mark{fill:var(--c);stroke:var(--c);stroke-width:1.75}
.hollow{fill:var(--paper)}
.dim .mark{opacity:.75}
.chart .curve{stroke:var(--c);fill:none;stroke-width:1.25;stroke-linejoin:round}
.chart .connector{stroke:var(--c);fill:none;stroke-width:1}
.chart .dashed{stroke-dasharray:5 3}
.chart .dot{fill:var(--c);stroke:var(--paper);stroke-width:1}
.chart .run:hover text{font-weight:600}
.chart .run:hover .curve{stroke-width:3}
)css";

/// Where the curves are worth looking at: the fall of the first tokens would squash the rest.
Box range_of(const std::vector<LossCurve>& curves) {
  constexpr double kSkipped = 0.1;
  Box range{0, std::numeric_limits<double>::infinity(), 0, 0};
  for (const auto& curve : curves)
    range.right = std::max(range.right, curve.training.back().tokens);
  for (const auto& curve : curves) {
    range.bottom = std::max(range.bottom, curve.training.back().loss);
    for (const auto* points : {&curve.training, &curve.validation}) {
      for (const auto& point : *points) {
        range.top = std::min(range.top, point.loss);
        if (point.tokens >= kSkipped * range.right) {
          range.bottom = std::max(range.bottom, point.loss);
        }
      }
    }
  }
  return range;
}

}  // namespace

std::string px(double value) { return fixed(value, 1); }

std::string text_at(double x, double y, std::string_view attributes, std::string_view content) {
  return cat("<text x=\"", px(x), "\" y=\"", px(y), "\" ", attributes, ">", content, "</text>");
}

std::string line_from(double x0, double y0, double x1, double y1, std::string_view css_class) {
  return cat("<path class=\"", css_class, "\" d=\"M", px(x0), " ", px(y0), "L", px(x1), " ", px(y1),
             "\"/>");
}

std::string open_svg(ChartSize size, const std::string& description) {
  return cat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" role=\"img\" viewBox=\"0 0 ",
      px(size.width), " ", px(size.height), "\" width=\"", px(size.width), "\" height=\"",
      px(size.height), "\" aria-label=\"", escape_markup(description), "\">\n");
}

std::string shape(size_t run, double x, double y, double radius, bool filled) {
  const std::string css = filled ? "\"mark\"" : "\"mark hollow\"";
  const double r = radius;
  const auto path = [&](const std::string& drawn) {
    return cat("<path class=", css, " d=\"", drawn, "\"/>");
  };
  switch (run / kColours % kShapes) {
    case 0:
      return cat("<circle class=", css, " cx=\"", px(x), "\" cy=\"", px(y), "\" r=\"", px(r),
                 "\"/>");
    case 1:
      return path(cat("M", px(x - r), " ", px(y - r), "h", px(2 * r), "v", px(2 * r), "h",
                      px(-2 * r), "z"));
    case 2:
      return path(cat("M", px(x), " ", px(y - 1.3 * r), "l", px(1.3 * r), " ", px(1.3 * r), "l",
                      px(-1.3 * r), " ", px(1.3 * r), "l", px(-1.3 * r), " ", px(-1.3 * r), "z"));
    case 3:
      return path(cat("M", px(x), " ", px(y - 1.2 * r), "l", px(1.2 * r), " ", px(2.1 * r), "h",
                      px(-2.4 * r), "z"));
    case 4:  // on its tip
      return path(cat("M", px(x), " ", px(y + 1.2 * r), "l", px(1.2 * r), " ", px(-2.1 * r), "h",
                      px(-2.4 * r), "z"));
    case 5: {  // a plus
      const std::string out = px(0.8 * r), in = px(-0.8 * r);
      return path(cat("M", px(x - 0.4 * r), " ", px(y - 1.2 * r), "h", out, "v", out, "h", out, "v",
                      out, "h", in, "v", out, "h", in, "v", in, "h", in, "v", in, "h", out, "z"));
    }
    case 6:  // an hourglass
      return path(cat("M", px(x - r), " ", px(y - 1.2 * r), "h", px(2 * r), "l", px(-2 * r), " ",
                      px(2.4 * r), "h", px(2 * r), "z"));
    default:  // one that lies
      return path(cat("M", px(x - 1.2 * r), " ", px(y - r), "v", px(2 * r), "l", px(2.4 * r), " ",
                      px(-2 * r), "v", px(2 * r), "z"));
  }
}

std::string axes(const ChartScale& x,
                 const ChartScale& y,
                 std::string_view x_unit,
                 std::string_view y_unit) {
  std::string out;
  for (const auto& tick : y.ticks) {
    out += line_from(x.from, y.at(tick.value), x.to, y.at(tick.value), "grid");
    out += text_at(x.from - 8, y.at(tick.value), "class=\"tick\" text-anchor=\"end\"", tick.label);
  }
  for (const auto& tick : x.ticks) {
    out += line_from(x.at(tick.value), y.to, x.at(tick.value), y.from, "grid");
    out +=
        text_at(x.at(tick.value), y.from + 15, "class=\"tick\" text-anchor=\"middle\"", tick.label);
  }
  out += text_at(x.from - 42, y.to - 22, "class=\"unit\"", y_unit);
  out += text_at(x.to, y.from + 36, "class=\"unit\" text-anchor=\"end\"", x_unit);
  return out + "\n";
}

std::string curves_svg(const std::vector<LossCurve>& curves, ChartSize size) {
  const bool narrow = size.width < 500;
  double label_width = 0;
  std::vector<std::string> labels;
  for (const auto& curve : curves) {
    labels.push_back(shorten(curve.label, narrow ? 13 : 24));
    label_width = std::max(label_width, text_width(labels.back(), kFontSize));
  }
  size.height = std::max(size.height, 84 + kLabelPitch * static_cast<double>(curves.size()));

  const Box range = range_of(curves);
  const double right = size.width - label_width - 26;
  const ChartScale y =
      make_scale(range.top, range.bottom, AxisUnit::kPlain, size.height - 48, 34, 6);
  const ChartScale x =
      make_linear_scale(0, std::max(range.right, 1.0), AxisUnit::kCount, 44, right, narrow ? 4 : 7);
  std::string out = open_svg(size, "Training and validation loss over training tokens");
  out += axes(x, y, "<tspan>Training tokens</tspan>",
              cat("<tspan>Loss</tspan>", y.logarithmic ? ", log scale" : "", ", nats per token"));

  const auto shown_y = [&](double loss) {
    return std::clamp(y.at(std::clamp(loss, y.low, y.high)), y.to, y.from);
  };
  std::vector<double> wanted;
  for (const auto& curve : curves) wanted.push_back(shown_y(curve.training.back().loss));
  const auto label_y = spread_labels(wanted, kLabelPitch, y.to, y.from);
  for (size_t i = 0; i < curves.size(); ++i) {
    const auto& curve = curves[i];
    std::string path;
    for (const auto& point : curve.training) {
      if (point.loss > y.high) continue;
      path += cat(path.empty() ? "M" : "L", px(x.at(point.tokens)), " ", px(shown_y(point.loss)));
    }
    const double end = x.at(curve.training.back().tokens);
    const bool dashed = curve.run / kColours % 2 == 1;
    out += cat("<g class=\"run c", curve.run % kColours, "\"><title>", escape_markup(curve.label),
               "</title><path class=\"curve", dashed ? " dashed" : "", "\" d=\"", path, "\"/>");
    for (const auto& point : curve.validation) {
      if (point.loss > y.high) continue;
      out += cat("<circle class=\"dot\" cx=\"", px(x.at(point.tokens)), "\" cy=\"",
                 px(shown_y(point.loss)), "\" r=\"3.5\"><title>",
                 escape_markup(cat(curve.label, ": validation loss ", fixed(point.loss, 3),
                                   " after ", compact_count(point.tokens), " tokens")),
                 "</title></circle>");
    }
    out += line_from(end + 2, wanted[i], right + 16, label_y[i], "connector");
    out += text_at(right + 20, label_y[i], "class=\"halo\"", escape_markup(labels[i]));
    out += "</g>\n";
  }
  return out + "</svg>\n";
}

std::string mark_svg(size_t run, bool filled) {
  return cat("<svg class=\"c", run % kColours,
             "\" width=\"14\" height=\"14\" viewBox=\"0 0 14 14\" aria-hidden=\"true\">",
             shape(run, 7, 7, 4.5, filled), "</svg>");
}

std::string_view chart_css() { return kCss; }

std::string escape_markup(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default: {
        const auto byte = static_cast<unsigned char>(c);
        const bool control = (byte < 0x20 && c != '\n' && c != '\t') || byte == 0x7F;
        out += control ? "\uFFFD" : std::string(1, c);
      }
    }
  }
  return out;
}

}  // namespace kvsmith
