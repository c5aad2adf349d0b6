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
/// its last token: formulas of quantised groups have teeth, so the last length is not always the
/// largest.
int64_t most_bytes(const CachePlan& plan, int64_t prompt, int64_t new_tokens);

}  // namespace kvsmith
