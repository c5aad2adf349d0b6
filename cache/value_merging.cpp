#include "cache/value_merging.h"

#include <algorithm>

#include <torch/types.h>

#include "cache/noise.h"
#include "cache/slot_store.h"

namespace kvsmith {

at::Tensor left_to_others(const at::Tensor& at,
                          const at::Tensor& scores,
                          const at::Tensor& goes,
                          const at::Tensor& gone,
                          const at::Tensor& keys,
                          int64_t tokens) {
  constexpr int64_t kPairs = int64_t{1} << 22;  // of rows that stay and go, alive at once
  const auto stays = at.ge(0).logical_and(goes.logical_not());
  // places of kept rows in the text, from 1; a row that goes stands behind as many
  const auto order = torch::argsort(at.masked_fill(stays.logical_not(), INT64_MAX), int64_t{2});
  const auto place = (torch::argsort(order, int64_t{2}) + 1).unsqueeze(3);
  const auto slots = chosen_slots(goes);
  const int64_t step = std::max<int64_t>(1, kPairs / std::max<int64_t>(1, at.numel()));
  auto shape = at.sizes().vec();
  shape.push_back(gone.size(3));
  auto out = torch::zeros(shape, gone.options());
  for (int64_t first = 0; first < slots.size(2); first += step) {
    const int64_t count = std::min(step, slots.size(2) - first);
    const auto some = slots.narrow(2, first, count), from = some.clamp_min(0);
    const auto gone_at = at.gather(2, from);
    const auto before = at.unsqueeze(3).lt(gone_at.unsqueeze(2)).logical_and(stays.unsqueeze(3));
    const auto distance = place - before.sum(2, /*keepdim=*/true);
    const auto follows = distance.gt(0)
                             .logical_and(distance.le(tokens))
                             .logical_and(stays.unsqueeze(3))
                             .logical_and(some.ge(0).unsqueeze(2))
                             .to(torch::kFloat);  // [batch, heads, rows, count]
    const auto sharers = follows.sum(2).clamp_min(1);
    const auto mean = (follows * scores.unsqueeze(3)).sum(2) / sharers;
    const auto draw = uniform_of(keys.to(at.device()).view({1, -1, 1}), gone_at);
    const auto leaves = draw.lt(scores.gather(2, from) / mean.clamp_min(1e-20));
    const auto shares = follows * (leaves / sharers).unsqueeze(2);
    out += torch::matmul(shares, gone.narrow(2, first, count));
  }
  return out;
}

}  // namespace kvsmith
