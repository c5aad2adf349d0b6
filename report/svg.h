#pragma once

#include <cstddef>
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
  double perplexity;
  std::string label;  ///< written beside the mark
  std::string hover;  ///< shown when pointed at
  bool on_front;      ///< filled and bright; otherwise hollow and dimmed
  size_t run;         ///< chooses colour and mark, the same in every chart
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

/// Scatter of `points` (at least one) with their names: bytes to the right, in octaves when they
/// span more than fourfold, perplexity upwards. `what` says of what they are, such as "KV cache per
/// token". `with_front` joins the points on the front by a stepped line.
std::string plane_svg(const std::vector<PlanePoint>& points,
                      const std::string& what,
                      bool with_front,
                      ChartSize size);
/// The same as a file of its own: with title, style for light and dark, and a background, because
/// an image does not always share the theme of the page it is shown in.
std::string standalone_plane_svg(const std::vector<PlanePoint>& points,
                                 const std::string& what,
                                 bool with_front,
                                 const std::string& title);
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
