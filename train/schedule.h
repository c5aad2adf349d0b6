#pragma once

#include <cstdint>

#include "configs/train_config.h"

namespace kvsmith {

/// The learning rate of optimizer step `step` (the first is 0): a linear rise over warmup_steps,
/// then constant, linear, cosine, or warmup-stable-decay (arXiv:2404.06395) towards
/// min_learning_rate at the last of total_steps().
double learning_rate(const TrainConfig& config, int64_t step);

}  // namespace kvsmith
