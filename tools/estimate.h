#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "configs/run_config.h"

namespace kvsmith {

/// take_from_corpus() for who wants no more than the size of the vocabulary, which may be given
/// instead of a corpus that is not built yet. Throws Error (66) that says so.
void take_vocabulary(RunConfig& config);

/// What inference is estimated for.
struct Serving {
  int64_t memory_bytes = 0;  ///< of the machine, for the largest batch; 0 leaves that out
  std::vector<int64_t> contexts = {2048, 8192, 32768, 131072};  ///< tokens, each at least 1
};

/// What a run and its model cost, from the configuration alone.
nlohmann::ordered_json estimate_json(const RunConfig& config, const Serving& serving);
/// The same for people.
std::string estimate_text(const RunConfig& config, const Serving& serving);

}  // namespace kvsmith
