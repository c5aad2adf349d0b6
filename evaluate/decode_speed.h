#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "cache/cache_plan.h"
#include "models/decoder.h"

namespace kvsmith {

struct SpeedOptions {
  int64_t context = 512;  ///< tokens in the cache when the first one is decoded
  int64_t tokens = 32;    ///< decoded and timed
  int64_t batch = 1;      ///< sequences
};

/// How fast tokens come out behind a cache that holds a context.
struct DecodeSpeed {
  int64_t batch = 0;
  std::vector<double> seconds;  ///< of each step, ascending
  int64_t resident_bytes = 0;   ///< of one sequence at the end
  int64_t reserved_bytes = 0;   ///< most that the storages of all sequences held

  /// Seconds that a share of the steps does not exceed: 0.5 is the median.
  double percentile(double share) const;
  /// Of all sequences together, at the median step.
  double tokens_per_second() const { return static_cast<double>(batch) / percentile(0.5); }
};

/// Times steps of one token a sequence. What comes before is written into the memories as rows of
/// noise, without running the model: speed does not depend on them, but where what stays depends on
/// scores (LeanKV). Memories of a fixed size other than windows begin empty.
DecodeSpeed decode_speed(DecoderImpl& model, const CachePlan& plan, const SpeedOptions& options);

/// Seconds until the first token of a text of `context` tokens: one step through the model, and
/// what the plan does to its rows.
double first_token_seconds(DecoderImpl& model, const CachePlan& plan, int64_t context);

/// The most sequences that decode_speed() holds within `memory` bytes, by the closed formula; 0:
/// not one.
int64_t largest_batch(const CachePlan& plan, int64_t context, int64_t tokens, int64_t memory);

/// decode_speed() of the most sequences whose storages hold at most `memory` bytes, whatever
/// `options.batch` says; none where one alone holds more.
std::optional<DecodeSpeed> largest_batch_speed(DecoderImpl& model,
                                               const CachePlan& plan,
                                               SpeedOptions options,
                                               int64_t memory);

}  // namespace kvsmith
