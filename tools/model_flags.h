#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoints/load.h"

namespace CLI {
class App;
}

namespace kvsmith {

/// Which model a verb works on and how it runs.
struct ModelFlags {
  std::filesystem::path checkpoint;
  std::string dtype = "fp32", device = "cpu";
  int threads = 0;
  int64_t forward_passes = -1, backward_passes = -1;  ///< -1: the model's own
};

/// Adds the positional checkpoint and --dtype, --device, --threads, --forward-passes and
/// --backward-passes.
void add_model_flags(CLI::App& verb, ModelFlags& flags);
LoadedModel load(const ModelFlags& flags);

/// Adds --adapter, whose words load_adapters() reads; `use` ends the help.
void add_adapter_flag(CLI::App& verb, std::vector<std::string>& words, const std::string& use);

/// Adds --cache, whose words cache_config_of() reads.
void add_cache_flag(CLI::App& verb, std::vector<std::string>& words);

}  // namespace kvsmith
