#pragma once

#include <vector>

#include <torch/types.h>

#include "models/decoder.h"
#include "tests/support/allocations.h"

namespace kvsmith {

/// Logits of `tokens` [batch, seq], taken through a cache in steps of these lengths.
inline at::Tensor logits_in_steps(Decoder& model,
                                  const at::Tensor& tokens,
                                  const std::vector<int64_t>& steps) {
  auto cache = model->make_cache({.batch = tokens.size(0)});
  std::vector<at::Tensor> out;
  int64_t first = 0;
  for (const int64_t count : steps) {
    out.push_back(model->logits(
        model->step(tokens.narrow(1, first, count), Positions::range(first, count), cache)));
    first += count;
  }
  return torch::cat(out, 1);
}

/// Most bytes allocated at once while one token is decoded behind 600 others, the cache left out.
inline int64_t peak_of_decoding(Decoder& model) {
  constexpr int64_t kTokens = 600, kChunk = 20;
  auto cache = model->make_cache({.batch = 1, .initial_rows = kTokens + 1});
  for (int64_t first = 0; first < kTokens; first += kChunk)
    model->step(torch::zeros({1, kChunk}, torch::kLong), Positions::range(first, kChunk), cache);
  const AllocationCounter allocations;
  model->step(torch::zeros({1, 1}, torch::kLong), Positions::range(kTokens, 1), cache);
  return allocations.peak_bytes();
}

}  // namespace kvsmith
