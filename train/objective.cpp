#include "train/objective.h"

#include <torch/types.h>

#include "ops/losses.h"

namespace kvsmith {

at::Tensor tensor_of(const std::vector<int64_t>& values, const Batch& batch, at::Device device) {
  return torch::from_blob(const_cast<int64_t*>(values.data()), {batch.sequences, batch.length},
                          torch::kLong)
      .to(device, torch::kLong, /*non_blocking=*/false, /*copy=*/true);
}

Positions positions_of(const Batch& batch, at::Device device) {
  if (!batch.has_borders) return Positions::range(0, batch.length, device);
  auto segments = torch::from_blob(const_cast<int32_t*>(batch.segments.data()),
                                   {batch.sequences, batch.length}, torch::kInt)
                      .to(device, torch::kInt, false, true);
  return Positions::packed(tensor_of(batch.positions, batch, device), std::move(segments));
}

BatchLoss NextTokens::loss(DecoderImpl& model, const Batch& batch) {
  const auto device = model.device();
  const auto tokens = tensor_of(batch.tokens, batch, device),
             targets = tensor_of(batch.targets, batch, device);
  auto cache = model.make_transient();
  const auto hidden = model.step(tokens, positions_of(batch, device), cache);
  const auto sum =
      linear_cross_entropy(hidden.flatten(0, 1), model.head_weight(), targets.flatten());
  return {.total = sum, .shown = sum.detach()};
}

}  // namespace kvsmith
