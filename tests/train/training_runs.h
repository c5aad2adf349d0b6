#pragma once

#include <csignal>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "core/files.h"
#include "tests/support/tiny.h"
#include "train/run.h"

namespace kvsmith {

/// Tests that make whole runs, one from another, in a directory of their own.
class TrainingRuns : public ::testing::Test {
 protected:
  /// A signal is raised after step `stop_after`.
  RunResult train(const RunConfig& config, const std::string& name, int64_t stop_after = 0) {
    RunHooks hooks;
    hooks.on_step = [&](const StepReport& report, int64_t, double, double) {
      if (report.step == stop_after - 1) std::raise(SIGTERM);
    };
    hooks.note = [&](const std::string& text) { notes_ += text + "\n"; };
    return run_training(config, {.output = directory_ / name}, hooks);
  }
  /// Of the latest checkpoint.
  std::string file(const std::string& run, const std::string& name) const {
    return read_file(directory_ / run / "latest" / name);
  }

  TemporaryDirectory directory_;
  std::filesystem::path corpus_ = tiny_corpus(directory_ / "corpus.h5");
  std::string notes_;
};

}  // namespace kvsmith
