#pragma once

#include <csignal>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/files.h"
#include "train/run.h"

namespace kvsmith {

/// Everything in metrics.jsonl that does not depend on the clock, a line a step.
inline std::vector<std::string> history(const std::filesystem::path& run) {
  std::vector<std::string> out;
  std::istringstream lines(read_file(run / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    auto json = nlohmann::ordered_json::parse(line);
    json.erase("tokens_per_second");
    json.erase("mfu");
    out.push_back(json.dump());
  }
  return out;
}

/// Hooks under which a run is asked to stop (SIGTERM) and does so after `step`; 0: it is not.
inline RunHooks stopping_after(int64_t step) {
  RunHooks hooks;
  hooks.on_step = [step](const StepReport& report, int64_t, double, double) {
    if (report.step == step - 1) std::raise(SIGTERM);
  };
  return hooks;
}

}  // namespace kvsmith
