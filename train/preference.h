#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "configs/preference_config.h"
#include "train/objective.h"
#include "train/reference.h"

namespace kvsmith {

/// What pairs are worth, [pairs] each.
struct PairLosses {
  at::Tensor loss;
  /// beta * (log-probability of the answer less the reference's), without gradient.
  at::Tensor chosen, rejected;
};

/// DPO (arXiv:2305.18290, equation 7): -log sigmoid of what the chosen answer is worth more than
/// the rejected one; with label_smoothing a share of the loss is that of the opposite preference.
/// Both log-probabilities are [pairs, 2], the chosen first.
PairLosses preference_losses(const PreferenceConfig& config,
                             const at::Tensor& policy,
                             const at::Tensor& reference);

/// Learns from batches of PairSource which answers are preferred. Told besides, as TRL names them:
/// the means of PairLosses, "rewards/chosen" and "rewards/rejected", of their difference,
/// "rewards/margins", and the share of pairs where it is positive, "rewards/accuracies".
class PreferenceObjective final : public Objective {
 public:
  /// `pairs`: all that may be asked about, for preference.cache; none: each is asked about when it
  /// comes.
  PreferenceObjective(const PreferenceConfig& config,
                      Reference reference,
                      std::vector<std::unique_ptr<const BatchSource>> pairs = {})
      : config_(config), reference_(std::move(reference)), pairs_(std::move(pairs)) {}

  void prepare(const std::function<void(const std::string&)>& note) override {
    reference_.prepare(pairs_, note);
    pairs_.clear();
  }

  /// Pairs.
  int64_t count(const Batch& batch) const override { return batch.sequences / 2; }
  BatchLoss loss(DecoderImpl& model, const Batch& batch) override;
  std::map<std::string, std::string> fingerprints() const override;

 private:
  PreferenceConfig config_;
  Reference reference_;
  std::vector<std::unique_ptr<const BatchSource>> pairs_;
};

}  // namespace kvsmith
