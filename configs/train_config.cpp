#include "configs/train_config.h"

#include <algorithm>

namespace kvsmith {

int64_t TrainConfig::total_steps() const {
  const int64_t by_tokens = (max_tokens + tokens_per_step() - 1) / tokens_per_step();
  if (max_steps == 0 || max_tokens == 0) return std::max(max_steps, by_tokens);
  return std::min(max_steps, by_tokens);
}

}  // namespace kvsmith
