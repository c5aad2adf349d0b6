#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace kvsmith {

/// How the next token is chosen. temperature 0 is greedy.
struct SamplingOptions {
  double temperature = 1.0;
  int64_t top_k = 0;   ///< only the k likeliest; 0: all
  double top_p = 1.0;  ///< only the likeliest that together reach this probability
  uint64_t seed = 0;
};

/// Throws Error (64) for values out of range.
void check(const SamplingOptions& options);

/// Chooses a token. The draw is a pure function of (seed, sequence, position), so the same seed
/// gives the same text whatever the other sequences are. Throws Error (80) when a logit is NaN.
/// logits: [vocab_size] fp32 on the host.
int64_t sample(const at::Tensor& logits,
               const SamplingOptions& options,
               int64_t sequence,
               int64_t position);

}  // namespace kvsmith
