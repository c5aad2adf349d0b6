#include "report/page_parts.h"

#include <algorithm>
#include <cmath>

#include "core/text.h"
#include "report/chart_scale.h"

namespace kvsmith {

std::string grouped(double value) {
  std::string digits = fixed(value, value == std::floor(value) ? 0 : 2);
  const size_t point = std::min(digits.find('.'), digits.size());
  for (size_t i = point; i > 3; i -= 3) digits.insert(i - 3, ",");
  return digits;
}

std::string cell_markup(const Cell& cell) {
  return cat("<td", cell.css.empty() ? "" : cat(" class=\"", cell.css, "\""), " data-label=\"",
             escape_markup(cell.label), "\"",
             cell.hover.empty() ? "" : cat(" title=\"", escape_markup(cell.hover), "\""), ">",
             cell.markup, "</td>");
}

std::string figure(const std::string& wide, const std::string& narrow) {
  return cat("<figure>\n<div class=\"wide\">", wide, "</div>\n<div class=\"narrow\">", narrow,
             "</div>\n</figure>\n");
}

std::string notes_list(const std::vector<std::string>& notes) {
  if (notes.empty()) return {};
  std::string out = "<ul class=\"notes\">\n";
  for (const auto& note : notes) {
    const bool flag = note.starts_with("Not comparable");
    out += cat("<li", flag ? " class=\"flag\">† " : ">", escape_markup(note), "</li>\n");
  }
  return out + "</ul>\n";
}

}  // namespace kvsmith
