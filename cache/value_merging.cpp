#include "cache/value_merging.h"

#include <torch/types.h>

#include "cache/noise.h"
#include "cache/slot_store.h"

namespace kvsmith {

at::Tensor left_to_others(const at::Tensor& at,
                          const at::Tensor& scores,
                          const at::Tensor& goes,
                          const at::Tensor& values,
                          const at::Tensor& keys,
                          int64_t tokens) {
  const auto slots = chosen_slots(goes);  // [batch, heads, gone]
  const auto from = slots.clamp_min(0);
  const auto stays = at.ge(0).logical_and(goes.logical_not());
  // places of kept rows in the text, from 1; a row that goes stands behind as many
  const auto order = torch::argsort(at.masked_fill(stays.logical_not(), INT64_MAX), int64_t{2});
  const auto place = torch::argsort(order, int64_t{2}) + 1;
  const auto gone_at = at.gather(2, from);
  const auto before = at.unsqueeze(3).lt(gone_at.unsqueeze(2)).logical_and(stays.unsqueeze(3));
  const auto distance = place.unsqueeze(3) - before.sum(2, /*keepdim=*/true);
  const auto follows = distance.gt(0)
                           .logical_and(distance.le(tokens))
                           .logical_and(stays.unsqueeze(3))
                           .logical_and(slots.ge(0).unsqueeze(2))
                           .to(torch::kFloat);  // [batch, heads, rows, gone]
  const auto count = follows.sum(2).clamp_min(1);
  const auto mean = (follows * scores.unsqueeze(3)).sum(2) / count;
  const auto draw = uniform_of(keys.to(at.device()).view({1, -1, 1}), gone_at);
  const auto leaves = draw.lt(scores.gather(2, from) / mean.clamp_min(1e-20));
  const auto shares = follows * (leaves / count).unsqueeze(2);
  const auto gone = values.gather(2, from.unsqueeze(3).expand({-1, -1, -1, values.size(3)}));
  return torch::matmul(shares, gone);
}

}  // namespace kvsmith
