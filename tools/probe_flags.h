#pragma once

#include <string>

#include "evaluate/probe_tasks.h"

namespace CLI {
class App;
}

namespace kvsmith {

/// "NAME: what it is" of every task, for help.
std::string probe_help();

/// Adds length, key-tokens, pairs, segment and seed, each named with `prefix` before it.
void add_probe_flags(CLI::App& verb, ProbeOptions& options, const std::string& prefix);

}  // namespace kvsmith
