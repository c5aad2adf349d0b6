#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "configs/run_config.h"
#include "train/trainer.h"

namespace kvsmith {

/// What `kvsmith train` was asked to do besides the configuration.
struct RunOptions {
  std::filesystem::path output = {};  ///< the run directory
  std::string resume = "auto";        ///< "auto", "never", or the path of a checkpoint
  std::vector<std::string> accept =
      {};              ///< keys that may differ from the checkpoint's ("data.corpus")
  bool force = false;  ///< drop what `output` holds past the point of resuming
};

/// How a run tells what it does; every function may be empty.
struct RunHooks {
  std::function<void(const std::string&)> note;  ///< one line for the log
  /// After each step; `remaining` in seconds, negative when unknown.
  std::function<void(const StepReport&, int64_t total_steps, double mfu, double remaining)> on_step;
  std::function<void(int64_t step, const Validation&)> on_validation;
};

struct RunResult {
  StepReport last;
  double validation_loss = -1;  ///< the last one, negative when there was none
  std::filesystem::path checkpoint;
  int signal = 0;         ///< that ended the run early, after saving; 0: none
  bool finished = false;  ///< the budget in steps and tokens is used up, or learning has ended
};

/// Opens the corpora, creates or resumes the model, trains to the end of the budget, and leaves
/// metrics.jsonl, TensorBoard events and checkpoints in the run directory, which is locked
/// meanwhile. A resumed run continues bit-exactly on the same machine and thread count.
/// Throws Error: 73 locked or not empty, 78 other configuration than the checkpoint's, 80 training
/// diverged (the last good checkpoint is kept), 74 disk, 65/66 corpus.
RunResult run_training(RunConfig config, const RunOptions& options, const RunHooks& hooks);

/// Fills what only the corpus knows (vocab_size) and checks it against the model.
void take_from_corpus(RunConfig& config);

}  // namespace kvsmith
