#include "serve/cache_budget.h"

#include <algorithm>

namespace kvsmith {

int64_t most_bytes(const CachePlan& plan, int64_t prompt, int64_t new_tokens) {
  // the last new token is never fed in
  const int64_t last = prompt + std::max<int64_t>(1, new_tokens) - 1;
  int64_t most = 0;
  for (int64_t tokens = prompt; tokens <= last; ++tokens)
    most = std::max(most, plan.bytes(tokens, prompt));
  return most;
}

}  // namespace kvsmith
