#include "configs/train_config.h"

#include <algorithm>

namespace kvsmith {

int64_t TrainConfig::total_steps() const {
  const int64_t by_tokens = (max_tokens + tokens_per_step() - 1) / tokens_per_step();
  if (max_steps == 0 || max_tokens == 0) return std::max(max_steps, by_tokens);
  return std::min(max_steps, by_tokens);
}

std::vector<std::pair<std::string, double>> TrainConfig::auxiliary_weights() const {
  std::vector<std::pair<std::string, double>> out = {{"reconstruction_loss", reconstruction_loss},
                                                     {"kv_loss", kv_loss}};
  std::erase_if(out, [](const auto& item) { return item.second == 0; });
  return out;
}

}  // namespace kvsmith
