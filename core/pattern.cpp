#include "core/pattern.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace kvsmith {

size_t distance_to_pattern(std::string_view pattern, std::string_view name) {
  std::vector<size_t> row(name.size() + 1);  // distances of what is read of `pattern` to prefixes
  std::iota(row.begin(), row.end(), size_t{0});
  for (const char wanted : pattern) {
    const bool is_any_text = wanted == '*';
    size_t diagonal = row[0];
    if (!is_any_text) ++row[0];
    for (size_t i = 0; i < name.size(); ++i) {
      const size_t above = row[i + 1];
      const size_t change = wanted == '?' || wanted == name[i] ? 0 : 1;
      row[i + 1] = is_any_text ? std::min(above, row[i])
                               : std::min({above + 1, row[i] + 1, diagonal + change});
      diagonal = above;
    }
  }
  return row.back();
}

}  // namespace kvsmith
