#pragma once

#include <string>

#include "inference/generate.h"

namespace CLI {
class App;
}

namespace kvsmith {

/// Adds --max-new-tokens, --temperature, --top-k, --top-p and --seed.
void add_sampling_flags(CLI::App& verb, GenerateOptions& options);

/// Sets what the flag --NAME sets. Throws Error (64) with the nearest name, or what is wrong with
/// the value.
void set_sampling(GenerateOptions& options, const std::string& name, const std::string& value);

/// "temperature 1, top-k 0, ...".
std::string sampling_text(const GenerateOptions& options);

}  // namespace kvsmith
