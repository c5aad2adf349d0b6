#pragma once

#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/files.h"

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

}  // namespace kvsmith
