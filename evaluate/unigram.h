#pragma once

#include <cstdint>
#include <vector>

#include "data/corpus.h"

namespace kvsmith {

/// The simplest language model there is: how often each token occurs in a split, plus one.
/// Returns -log p per token id, in nats.
std::vector<double> unigram_losses(const CorpusSplit& training, int64_t vocab_size);

}  // namespace kvsmith
