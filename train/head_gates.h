#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "configs/head_gates.h"
#include "models/decoder.h"
#include "ops/positions.h"

namespace kvsmith {

/// A text, and the parts of it that are known only from what stands further back.
struct GateSample {
  std::vector<int64_t> tokens;
  std::vector<Span> answers;  ///< none begins with the first token
};
/// Gives sample `index`; in one optimizer step they may be of different lengths.
using GateSamples = std::function<GateSample(uint64_t index)>;

/// Defaults are the published ones, except for steps, sinks and window, which were 2000, 128 and
/// 256 for texts of 1,000 to 128,000 tokens.
struct HeadGateOptions {
  int64_t steps = 300;  ///< of the optimizer
  int64_t batch = 1;    ///< samples a step
  double learning_rate = 0.02;
  double regularisation = 0.05;  ///< weight of the mean gate beside the difference
  int64_t sinks = 16;            ///< first positions that a streaming head sees
  int64_t window = 64;           ///< last positions that it sees
};

/// What one optimizer step did.
struct HeadGateStep {
  int64_t step = 0;       ///< steps done, this one included
  double difference = 0;  ///< what the gates change, before the step
  double mean_gate = 0;   ///< after the step
  double learning_rate = 0;
  double seconds = 0;
};

/// Learns which key/value heads need all of their rows (DuoAttention, arXiv:2410.10819), one gate a
/// head of layers_with_head_gates(). All weights are frozen, and stay so; gates begin at 1. What is
/// made small is the difference between the last hidden states with and without gates where the
/// answers are predicted, + regularisation * mean gate. It depends on nothing but its arguments.
/// One sample at a time is in memory, with gradient checkpointing.
///
/// Throws Error: 78 when no layer of the model has gates, 80 when the loss is not finite.
HeadGatesFile learn_head_gates(DecoderImpl& model,
                               const HeadGateOptions& options,
                               const GateSamples& samples,
                               const std::function<void(const HeadGateStep&)>& on_step = {});

}  // namespace kvsmith
