#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "checkpoints/load.h"
#include "configs/sweep_config.h"
#include "evaluate/perplexity.h"

namespace kvsmith {

/// One evaluation of a sweep.
struct SweepPoint {
  std::string checkpoint;
  EvaluateOptions options;
  std::string name;      ///< what its result's file begins with
  std::string identity;  ///< all that shapes it, but for the contents of checkpoint and corpus
};

/// Throws Error: 66, 78.
SweepConfig sweep_config_of(const std::filesystem::path& file);

/// Every point, checkpoint by checkpoint. Methods that keep every row have no budgets; a method
/// given with a budget, codec or seed of its own has that one.
std::vector<SweepPoint> sweep_points(const SweepConfig& config);

/// How a sweep goes on.
struct SweepHooks {
  std::function<LoadedModel(const std::string& checkpoint)> load;
  /// What else shapes results: type, passes, contents of the checkpoint.
  std::function<std::string(const std::string& checkpoint)> identity;
  std::function<void(const std::string& line)> note;
};

struct SweepResult {
  int64_t done = 0, known = 0, refused = 0;
};

/// Evaluates the points whose file is not in `output` yet; a file appears when its point is done,
/// so that a sweep that was killed goes on where it was. Points that cannot be, such as KIVI with
/// eviction, are noted with their reason and left out.
SweepResult run_sweep(const SweepConfig& config,
                      const std::filesystem::path& output,
                      const SweepHooks& hooks);

}  // namespace kvsmith
