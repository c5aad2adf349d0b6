#include "serve/cache_budget.h"

#include <algorithm>
#include <numeric>

namespace kvsmith {

int64_t most_bytes(const CachePlan& plan, int64_t prompt, int64_t new_tokens) {
  // the last new token is never fed in
  const int64_t last = prompt + std::max<int64_t>(1, new_tokens) - 1;
  const int64_t bytes = plan.bytes(last, prompt);
  const int64_t peak = last - (last + 1) % plan.config().residual_length;
  return peak < prompt ? bytes : std::max(bytes, plan.bytes(peak, prompt));
}

int64_t fitting_tokens(const CachePlan& plan, int64_t prompt, int64_t most, int64_t bytes) {
  int64_t fitting = 1, too_many = most + 1;
  while (too_many - fitting > 1) {
    const int64_t middle = std::midpoint(fitting, too_many);
    (most_bytes(plan, prompt, middle) <= bytes ? fitting : too_many) = middle;
  }
  return fitting;
}

}  // namespace kvsmith
