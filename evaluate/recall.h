#pragma once

#include <cstdint>
#include <vector>

#include "data/corpus.h"
#include "models/decoder.h"

namespace kvsmith {

/// What a model makes of a passage that it has seen `distance` tokens before.
struct RecallPoint {
  int64_t distance = 0;  ///< tokens between the end of the passage and its repetition
  double nll_first = 0;  ///< nats a token when the passage is new
  double nll_again = 0;  ///< nats a token when it comes again
  double accuracy = 0;   ///< share of repeated tokens that are the most likely one

  double gain() const { return nll_first - nll_again; }
};

struct RecallOptions {
  int64_t passage = 32;    ///< tokens that are repeated
  int64_t samples = 32;    ///< passages for each distance
  int64_t longest = 1024;  ///< tokens of a whole sample at most
  uint64_t seed = 0;
};

/// Throws Error: 64 when `longest` does not hold a passage twice, 65 when the split is shorter than
/// `longest`.
void check_recall(const CorpusSplit& split, const RecallOptions& options);

/// A synthetic probe of exact memory: a random passage of the split, other text of the split, then
/// the passage again, read token by token through the cache. Perplexity of ordinary text hardly
/// tells whether a memory still holds single tokens; this does. Distances are 0 and powers of two
/// from 32 on, as far as `longest` allows. Throws Error as check_recall().
std::vector<RecallPoint> recall_curve(DecoderImpl& model,
                                      const CorpusSplit& split,
                                      const RecallOptions& options);

}  // namespace kvsmith
