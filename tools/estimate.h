#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

#include "configs/run_config.h"

namespace kvsmith {

/// What a run and its model cost, from the configuration alone. `memory_bytes`: memory of a serving
/// machine for the largest-batch column; 0 leaves it out.
nlohmann::ordered_json estimate_json(const RunConfig& config, int64_t memory_bytes);
/// The same for people.
std::string estimate_text(const RunConfig& config, int64_t memory_bytes);

}  // namespace kvsmith
