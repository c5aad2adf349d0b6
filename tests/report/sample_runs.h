#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace kvsmith {

/// What `kvsmith evaluate --json` writes about a run of that name, architecture and outcome.
inline nlohmann::ordered_json evaluation(const std::string& name,
                                         const std::string& architecture,
                                         double bytes_per_token,
                                         double perplexity) {
  return {{"name", name},
          {"corpus", "data/stories.h5"},
          {"split", "validation"},
          {"architecture", architecture},
          {"parameters", 12'600'000},
          {"tokens_seen", 20'000'000},
          {"tokens", 51'234},
          {"perplexity", perplexity},
          {"bits_per_byte", nullptr},
          {"context", 1024},
          {"stride", 512},
          {"protocol", "decode"},
          {"cache",
           {{"bytes_measured", 1024 * bytes_per_token},
            {"bytes_formula", 1024 * bytes_per_token},
            {"bytes_per_token", bytes_per_token},
            {"bytes_at_8k", 8192 * bytes_per_token}}}};
}

}  // namespace kvsmith
