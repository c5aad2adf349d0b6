#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "report/methods.h"
#include "report/svg.h"

namespace kvsmith {

inline constexpr ChartSize kWide{900, 440}, kHalf{440, 380}, kNarrow{340, 380};

std::string_view page_css();
/// Filters, sorting and a tip at each mark, for a page with a table of methods. Says nothing that
/// the page does not say without it.
std::string_view page_script();

/// A cell of a table.
struct Cell {
  std::string label;  ///< of the column; stands before the value where a table is too wide
  std::string markup;
  std::string hover = {};  ///< plain text
  std::string css = {};
};

std::string cell_markup(const Cell& cell);
/// 131072 as "131,072".
std::string grouped(double value);
/// A chart for wide and for narrow screens.
std::string figure(const std::string& wide, const std::string& narrow);
std::string notes_list(const std::vector<std::string>& notes);

/// The charts of methods: perplexity for each panel and, where there are probes, what they recall.
std::vector<PlaneChart> method_charts(const MethodFindings& findings);
/// The part of the page about cache methods.
std::string methods_section(const MethodFindings& findings);

}  // namespace kvsmith
