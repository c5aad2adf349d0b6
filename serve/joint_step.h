#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "models/decoder.h"

namespace kvsmith {

/// The next token of one sequence, whose cache is of batch 1.
struct NextToken {
  KvCache* cache = nullptr;
  int64_t token = 0;
  int64_t position = 0;  ///< tokens that the cache has seen
};

/// Runs `model` once for the next tokens of several sequences, each with a cache of its own, under
/// whatever plan. Every sequence has seen tokens before. The result of a sequence does not depend
/// on the others, up to rounding. -> [sequences, hidden_size], hidden states for `head_weight()`.
at::Tensor step_together(DecoderImpl& model, const std::vector<NextToken>& next);

}  // namespace kvsmith
