#pragma once

#include <cstdint>
#include <vector>

#include "data/corpus.h"

namespace kvsmith {

/// A piece of a document to score: inputs [first, first + length) of the split, each predicting the
/// next token; predictions before `scored_from` (counted in the window) only give context.
struct Window {
  uint64_t document = 0, first = 0;
  int64_t length = 0, scored_from = 0;
  bool opens_document = false;

  int64_t scored() const { return length - scored_from; }
};

/// Windows of all documents of at least two tokens, until `max_tokens` (0: all) are scored. The
/// first `prefill` tokens of each are not; windows without others are left out.
std::vector<Window> windows_of(const CorpusSplit& split,
                               int64_t context,
                               int64_t stride,
                               int64_t max_tokens,
                               int64_t prefill = 0);

}  // namespace kvsmith
