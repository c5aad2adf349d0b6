#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

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

  /// What cannot be written, on a full disk for instance, is kept and tried again with the next
  /// call.
  void log(const StepReport& report, const std::optional<Validation>& validation, double mfu);
  /// After this, a power cut loses nothing logged so far. Throws 74 when that cannot be had; then
  /// everything logged is still kept, and a later call may succeed.
  void sync();

 private:
  void write();

  AppendFile file_;
  std::string waiting_;  ///< lines not in the file yet
  std::unique_ptr<EventWriter> events_;
};

}  // namespace kvsmith
