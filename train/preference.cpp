#include "train/preference.h"

#include <torch/types.h>

namespace kvsmith {
namespace {

/// Means over the tokens of each answer in the place of sums, [pairs, 2].
at::Tensor normalised(const at::Tensor& sums, const Batch& batch) {
  const auto targets = tensor_of(batch.targets, batch, sums.device());
  return sums / targets.ge(0).sum(1).clamp_min(1).view_as(sums);
}

}  // namespace

PairLosses preference_losses(const PreferenceConfig& config,
                             const at::Tensor& policy,
                             const at::Tensor& reference) {
  const auto rewards = (policy - reference) * config.beta;
  const auto chosen = rewards.select(1, 0), rejected = rewards.select(1, 1);
  const auto margin = chosen - rejected;
  const double smoothing = config.label_smoothing;
  auto loss = at::log_sigmoid(margin) * (smoothing - 1);
  if (smoothing > 0) loss = loss - at::log_sigmoid(-margin) * smoothing;
  return {loss, chosen.detach(), rejected.detach()};
}

BatchLoss PreferenceObjective::loss(DecoderImpl& model, const Batch& batch) {
  // before the policy runs: its adapter is away meanwhile
  auto reference = reference_.log_probabilities(batch);
  auto policy = answer_log_probabilities(model, batch);
  if (config_.is_normalised()) {
    reference = normalised(reference, batch);
    policy = normalised(policy, batch);
  }
  const auto [loss, chosen, rejected] = preference_losses(config_, policy, reference);
  const auto total = loss.sum(), margin = chosen - rejected;
  return {.total = total,
          .shown = total.detach(),
          .figures = {{"rewards/chosen", chosen.sum()},
                      {"rewards/rejected", rejected.sum()},
                      {"rewards/margins", margin.sum()},
                      {"rewards/accuracies", margin.gt(0).sum()}}};
}

std::map<std::string, std::string> PreferenceObjective::fingerprints() const {
  if (reference_.fingerprint().empty()) return {};
  return {{"preference.reference", reference_.fingerprint()}};
}

}  // namespace kvsmith
