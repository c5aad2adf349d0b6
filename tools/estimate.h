#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

#include "configs/run_config.h"

namespace kvsmith {

/// take_from_corpus() for who wants no more than the size of the vocabulary, which may be given
/// instead of a corpus that is not built yet. Throws Error (66) that says so.
void take_vocabulary(RunConfig& config);

/// What a run and its model cost, from the configuration alone. `memory_bytes`: memory of a serving
/// machine for the largest-batch column; 0 leaves it out.
nlohmann::ordered_json estimate_json(const RunConfig& config, int64_t memory_bytes);
/// The same for people.
std::string estimate_text(const RunConfig& config, int64_t memory_bytes);

}  // namespace kvsmith
