#include "cache/eviction.h"

#include <algorithm>
#include <limits>

#include <torch/types.h>

namespace kvsmith {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// What `limits` mean for heads that share. worth: [batch, heads, rows], in each head from the best
/// row to the worst.
at::Tensor shared(const at::Tensor& limits, const at::Tensor& worth, int64_t floor) {
  const int64_t batch = worth.size(0), heads = worth.size(1), rows = worth.size(2);
  const auto rank = torch::arange(rows, limits.options());
  const auto safe = worth.masked_fill(rank.lt(floor), kInfinity);
  // by rank, so that a tie goes to the head that has got fewer rows
  const auto by_rank = safe.transpose(1, 2).flatten(1);
  const auto order = torch::argsort(by_rank, /*stable=*/true, 1, /*descending=*/true);
  const auto taken = torch::argsort(order, int64_t{1}).lt(limits.sum(1));
  return taken.view({batch, rows, heads}).sum(1).unsqueeze(2);
}

}  // namespace

int64_t most_above(const RowStore& store, const std::vector<int64_t>& limits, bool share) {
  int64_t most = 0;
  auto limit = limits.begin();
  for (int64_t b = 0; b < store.batch(); ++b) {
    int64_t sum = 0;
    for (int64_t head = 0; head < store.heads(); ++head) {
      const int64_t above = store.count(b, head) - *limit++;
      sum += above;
      if (!share) most = std::max(most, above);
    }
    if (share) most = std::max(most, sum);
  }
  return most;
}

at::Tensor slots_of_least_worth(const at::Tensor& at, const at::Tensor& worth) {
  const auto none = at.lt(0);
  const auto among = worth.masked_fill(none, kInfinity);
  const auto least = among.eq(among.amin(2, /*keepdim=*/true)).logical_and(none.logical_not());
  return at.masked_fill(least.logical_not(), INT64_MAX).argmin(2);
}

at::Tensor rows_of_highest_worth(const at::Tensor& at,
                                 const at::Tensor& worth,
                                 const at::Tensor& limits,
                                 std::optional<int64_t> shared_floor) {
  const auto by_position = torch::argsort(at, /*stable=*/true, 2, /*descending=*/true);
  const auto by_worth =
      torch::argsort(worth.gather(2, by_position), /*stable=*/true, 2, /*descending=*/true);
  const auto order = by_position.gather(2, by_worth);
  const auto most = shared_floor ? shared(limits, worth.gather(2, order), *shared_floor) : limits;
  return torch::argsort(order, int64_t{2}).lt(most);
}

}  // namespace kvsmith
