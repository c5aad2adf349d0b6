#pragma once

#include <cstdint>

#include "cache/cache_plan.h"

namespace kvsmith {

/// Bytes that caches may occupy together, promised before they are used: what is admitted can
/// always grow to its end. Not thread-safe.
class CacheBudget {
 public:
  explicit CacheBudget(int64_t bytes) : bytes_(bytes) {}

  bool fits(int64_t more) const { return promised_ + more <= bytes_; }
  bool could_ever_fit(int64_t more) const { return more <= bytes_; }
  void promise(int64_t bytes) { promised_ += bytes; }
  void release(int64_t bytes) { promised_ -= bytes; }
  int64_t bytes() const { return bytes_; }
  int64_t promised() const { return promised_; }

 private:
  int64_t bytes_, promised_ = 0;
};

/// The most bytes, by the closed formula, that a text occupies between the end of its prompt and
/// its last token. Formulas grow with the text, but for KIVI's, which falls at every multiple of
/// residual_length, where so many keys are quantised at once. Each peak is above those before it:
/// the last one and the last length decide.
int64_t most_bytes(const CachePlan& plan, int64_t prompt, int64_t new_tokens);

/// The most new tokens, up to `most`, for which most_bytes() is within `bytes`; 1 where there are
/// none.
int64_t fitting_tokens(const CachePlan& plan, int64_t prompt, int64_t most, int64_t bytes);

}  // namespace kvsmith
