#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace kvsmith {

double learning_rate(const TrainConfig& config, int64_t step) {
  const double peak = config.learning_rate, low = config.min_learning_rate;
  if (step < config.warmup_steps) {
    return peak * static_cast<double>(step + 1) / static_cast<double>(config.warmup_steps);
  }
  if (config.lr_scheduler == "constant") return peak;
  const int64_t last = config.total_steps() - 1;
  const auto progress_from = [&](int64_t first) {
    if (step <= first) return 0.0;
    return std::min(1.0, static_cast<double>(step - first) /
                             static_cast<double>(std::max<int64_t>(1, last - first)));
  };
  if (config.lr_scheduler == "cosine") {
    const double progress = progress_from(config.warmup_steps);
    return low + (peak - low) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
  }
  const int64_t decay = config.decay_steps > 0 ? config.decay_steps : config.total_steps() / 5;
  const bool is_wsd = config.lr_scheduler == "wsd";
  const int64_t first = is_wsd ? std::max(config.warmup_steps, last - decay) : config.warmup_steps;
  return peak + (low - peak) * progress_from(first);
}

}  // namespace kvsmith
