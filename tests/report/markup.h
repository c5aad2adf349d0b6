#pragma once

#include <algorithm>
#include <string>
#include <vector>

namespace kvsmith {

/// The first fault of markup in which every element is closed, either by a tag or by "/>".
inline std::string fault_of_markup(const std::string& text,
                                   const std::vector<std::string>& void_elements) {
  std::vector<std::string> open;
  for (size_t at = text.find('<'); at != std::string::npos; at = text.find('<', at + 1)) {
    if (text[at + 1] == '!') continue;
    const size_t end = text.find('>', at);
    if (end == std::string::npos) return "open tag at the end";
    const bool closing = text[at + 1] == '/';
    const size_t begin = at + (closing ? 2 : 1);
    const std::string name = text.substr(begin, text.find_first_of(" \n/>", begin) - begin);
    const std::string tag = text.substr(at, end - at + 1);
    if (tag.find('<', 1) != std::string::npos) return "< inside " + tag;
    if (std::ranges::count(tag, '"') % 2 != 0) return "odd quotes in " + tag;
    if (closing) {
      if (open.empty() || open.back() != name) return "unexpected " + tag;
      open.pop_back();
    } else if (text[end - 1] != '/' &&
               std::ranges::find(void_elements, name) == void_elements.end()) {
      open.push_back(name);
    }
  }
  return open.empty() ? "" : "never closed: " + open.back();
}

}  // namespace kvsmith
