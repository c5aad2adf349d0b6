#include "evaluate/windows.h"

#include <algorithm>

namespace kvsmith {

std::vector<Window> windows_of(const CorpusSplit& split,
                               int64_t context,
                               int64_t stride,
                               int64_t max_tokens,
                               int64_t prefill) {
  std::vector<Window> windows;
  int64_t left = max_tokens > 0 ? max_tokens : INT64_MAX;
  for (uint64_t document = 0; document < split.documents() && left > 0; ++document) {
    const uint64_t begin = split.offset(document);
    const auto inputs = static_cast<int64_t>(split.offset(document + 1) - begin) - 1;
    int64_t scored = 0;  // predictions of this document that a window has taken
    for (int64_t start = 0; scored < inputs && left > 0; start += stride) {
      Window window{document, begin + static_cast<uint64_t>(start),
                    std::min(context, inputs - start), std::max(scored - start, prefill),
                    start == 0};
      scored = start + window.length;
      if (window.scored() < 1) continue;
      window.length = std::min(window.length, window.scored_from + left);
      left -= window.scored();
      windows.push_back(window);
    }
  }
  return windows;
}

}  // namespace kvsmith
