#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "data/batches.h"
#include "models/decoder.h"

namespace kvsmith {

/// What a model says to a micro-batch: scalars, sums over what Objective::count() counts.
struct BatchLoss {
  at::Tensor total;  ///< what is made small
  at::Tensor shown;  ///< what is told as the loss; without gradient
  /// What is told besides, by name; without gradient.
  std::vector<std::pair<std::string, at::Tensor>> figures = {};
};

/// What a run makes small.
class Objective {
 public:
  virtual ~Objective() = default;

  /// What the loss of a micro-batch is a sum over.
  virtual int64_t count(const Batch& batch) const { return batch.target_count; }
  virtual BatchLoss loss(DecoderImpl& model, const Batch& batch) = 0;
  /// How well `model` does on texts that it does not learn from; `total` is not used.
  virtual BatchLoss validation(DecoderImpl& model, const Batch& batch) {
    return loss(model, batch);
  }
  /// Asks other models what can be asked before the first step, and tells `note` so.
  virtual void prepare(const std::function<void(const std::string&)>& /*note*/) {}
  /// Hashes of other models that it asks, by the key that names each: a run must go on with those
  /// that it began with.
  virtual std::map<std::string, std::string> fingerprints() const { return {}; }
};

/// Cross-entropy of the next tokens that are to be learnt.
class NextTokens : public Objective {
 public:
  BatchLoss loss(DecoderImpl& model, const Batch& batch) override;
};

/// Positions of a batch as the model wants them.
Positions positions_of(const Batch& batch, at::Device device);
/// A row-major [sequences, length] field of a batch on `device`.
at::Tensor tensor_of(const std::vector<int64_t>& values, const Batch& batch, at::Device device);

}  // namespace kvsmith
