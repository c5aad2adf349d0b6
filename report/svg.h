#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvsmith {

/// CSS pixels.
struct ChartSize {
  double width, height;
};

/// A run on the memory-perplexity plane.
struct PlanePoint {
  double bytes;
  double y;                        ///< perplexity, or a share of what was to be recalled
  std::string label;               ///< written beside the mark; empty: nothing is
  std::string hover;               ///< shown when pointed at; may have several lines
  bool on_front;                   ///< filled and bright; otherwise hollow and dimmed
  size_t run;                      ///< chooses colour and mark, the same in every chart
  std::optional<size_t> row = {};  ///< of the table that scripts filter together with the marks
};

/// A scatter of `points` (at least one): bytes to the right, in octaves when they span more than
/// fourfold, `y` upwards.
struct PlaneChart {
  std::vector<PlanePoint> points;
  std::string bytes_of;           ///< "KV cache per token"
  bool with_front = true;         ///< joins the points on the front by a stepped line
  std::string title = {};         ///< written only where a file holds several charts
  std::string y = "Perplexity";   ///< what is upwards
  bool higher_is_better = false;  ///< then y is a share
};

/// A run's loss while it trained. Every chart point is {tokens seen, nats per token}.
struct LossCurve {
  struct Point {
    double tokens, loss;
  };
  std::string label;
  std::vector<Point> training;    ///< smoothed; drawn as a line
  std::vector<Point> validation;  ///< drawn as dots
  size_t run;
};

/// One chart with the names of its points.
std::string plane_svg(const PlaneChart& chart, ChartSize size);
/// Charts as a file of its own: with title, style for light and dark, and a background, because
/// an image does not always share the theme of the page it is shown in.
std::string standalone_svg(const std::vector<PlaneChart>& charts, const std::string& title);
/// Loss over training tokens for `curves` (at least one, none without a training point). Grows
/// higher than asked when there are many names to write.
std::string curves_svg(const std::vector<LossCurve>& curves, ChartSize size);
/// The mark of a run, to stand beside its name in text.
std::string mark_svg(size_t run, bool filled);

/// What the charts need from the style sheet around them: colours for light and dark as variables
/// (--paper, --ink, --muted, --hair and the palette), and the rules of their classes.
std::string_view chart_css();

/// `text` for HTML and XML, in elements and in quoted attributes. Control characters, which XML
/// does not allow, become U+FFFD.
std::string escape_markup(std::string_view text);

}  // namespace kvsmith
