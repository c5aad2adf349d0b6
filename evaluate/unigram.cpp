#include "evaluate/unigram.h"

#include <algorithm>
#include <cmath>

namespace kvsmith {

std::vector<double> unigram_losses(const CorpusSplit& training, int64_t vocab_size) {
  constexpr uint64_t kSlice = 1 << 16;
  std::vector<double> counts(static_cast<size_t>(vocab_size), 1.0);
  std::vector<int32_t> ids;
  for (uint64_t first = 0; first < training.tokens(); first += kSlice) {
    ids.resize(std::min(kSlice, training.tokens() - first));
    training.read(first, ids);
    for (const int32_t id : ids) ++counts[static_cast<size_t>(id)];
  }
  const double total = static_cast<double>(training.tokens()) + static_cast<double>(vocab_size);
  for (double& count : counts) count = std::log(total / count);
  return counts;
}

}  // namespace kvsmith
