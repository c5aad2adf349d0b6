#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "configs/run_config.h"
#include "data/batches.h"
#include "models/decoder.h"
#include "train/objective.h"
#include "train/optimizer.h"

namespace kvsmith {

/// What one optimizer step did.
struct StepReport {
  int64_t step = 0;          ///< steps done, this one included
  int64_t tokens = 0;        ///< tokens read since the start of the run
  int64_t batch_tokens = 0;  ///< of this step
  double loss = 0;           ///< mean over what is learnt in the global batch; 0 of nothing
  /// Other losses, before their weights, and figures by name: means over the global batch.
  std::vector<std::pair<std::string, double>> auxiliary = {};
  double grad_norm = 0;
  double learning_rate = 0;
  double seconds = 0;
  bool skipped = false;  ///< loss or gradient was not finite; nothing was updated
};

/// How a model does on texts that it does not learn from.
struct Validation {
  double loss = 0;
  std::vector<std::pair<std::string, double>> figures = {};  ///< by name
};

/// Turns batches into optimizer steps. Knows no architecture, no files and no clock but its own.
class Trainer {
 public:
  /// `batches` yields micro-batches; batch_size / micro_batch_size of them make a step. Only what
  /// `train.trainable` names will have gradients. Throws Error (78) when it names nothing.
  Trainer(const RunConfig& config,
          Decoder model,
          BatchStream& batches,
          std::unique_ptr<Objective> objective = std::make_unique<NextTokens>());

  /// Accumulates the gradient of sum(losses) / (what the objective counts in the global batch) +
  /// the weighted auxiliary losses / (micro-batches), so that the split into micro-batches does not
  /// change the result (but for distill.mixer_loss, which is relative within a micro-batch, and for
  /// auxiliary losses of pairs, of which each micro-batch has its own length); clips; updates.
  StepReport step();

  /// Mean loss over what is to be learnt of the first `max_tokens` (0: all) of an epoch, without
  /// gradient. Throws Error (65) where that is nothing.
  Validation validate(const BatchSource& source, int64_t max_tokens);

  int64_t steps() const { return step_; }
  /// Steps in a row that were skipped.
  int64_t nonfinite_in_a_row() const { return nonfinite_in_a_row_; }
  AdamW& optimizer() { return optimizer_; }
  Decoder& model() { return model_; }

  /// Counters that a resumed run needs: step, tokens, sampler position, optimizer steps, skips.
  nlohmann::ordered_json state() const;
  void restore(const nlohmann::ordered_json& state);

 private:
  RunConfig config_;
  Decoder model_;
  BatchStream& batches_;
  std::unique_ptr<Objective> objective_;
  AdamW optimizer_;
  int64_t step_ = 0, tokens_ = 0, nonfinite_in_a_row_ = 0;
};

}  // namespace kvsmith
