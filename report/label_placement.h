#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvsmith {

/// A rectangle in CSS pixels, y downwards.
struct Box {
  double left = 0, top = 0, right = 0, bottom = 0;
};

bool overlap(const Box& a, const Box& b);

/// A mark of a chart that wants its name written beside it.
struct Labelled {
  double x = 0, y = 0;  ///< centre of the mark
  double width = 0;     ///< of the label; 0: it wants none
};

/// Where a label goes. x is the end, the middle or the start of the text, as `anchor` says in SVG's
/// words; y is the text's middle.
struct Placement {
  double x = 0, y = 0;
  const char* anchor = "start";
  bool needs_leader = false;  ///< too far from its mark to be understood without a line
};

/// Finds each mark in turn a place inside `area` where its label covers no mark and no other label,
/// close to the mark, and preferably off `lines`. nullopt where there is none, and for marks that
/// want none.
std::vector<std::optional<Placement>> place_labels(const std::vector<Labelled>& marks,
                                                   const Box& area,
                                                   const std::vector<Box>& lines);

/// Vertical middles for labels in one column: near the wanted ones, in the same order, at least
/// `pitch` apart, between `top` and `bottom` while they fit.
std::vector<double> spread_labels(const std::vector<double>& wanted,
                                  double pitch,
                                  double top,
                                  double bottom);

/// Width of a text in pixels, estimated for the system fonts of the usual platforms.
double text_width(std::string_view utf8, double font_size);
/// `utf8` cut to at most `most` characters, the last one then being an ellipsis.
std::string shorten(std::string_view utf8, size_t most);

}  // namespace kvsmith
