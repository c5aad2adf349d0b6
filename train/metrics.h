#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include <nlohmann/json.hpp>

#include "core/files.h"
#include "train/tensorboard.h"
#include "train/trainer.h"

namespace kvsmith {

/// The history of a run: `metrics.jsonl`, one object a line and one line a step, and TensorBoard
/// event files under `tensorboard/`.
class MetricsLog {
 public:
  /// Continues after `resumed_step`: later lines of an interrupted run are moved to
  /// `metrics.jsonl.discarded-N`, so that each step stands in the file once. A torn last line is
  /// dropped.
  MetricsLog(const std::filesystem::path& run, int64_t resumed_step, bool tensorboard);

  void log(const StepReport& report, std::optional<double> validation_loss, double mfu);
  /// After this, a power cut loses nothing logged so far.
  void sync();

 private:
  AppendFile file_;
  std::unique_ptr<EventWriter> events_;
};

}  // namespace kvsmith
