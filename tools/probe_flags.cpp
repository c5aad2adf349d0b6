#include "tools/probe_flags.h"

#include <CLI/CLI.hpp>

#include "core/text.h"

namespace kvsmith {

std::string probe_help() {
  std::string out = "generated probes of memory; may be repeated:";
  for (const ProbeTask& task : probe_tasks()) out += cat("\n", task.name, ": ", task.help);
  return out;
}

void add_probe_flags(CLI::App& verb, ProbeOptions& options, const std::string& prefix) {
  constexpr int64_t kMost = int64_t{1} << 20;
  const CLI::Range count(int64_t{1}, kMost);
  auto* length =
      verb.add_option(prefix + "length", options.lengths, "tokens of a sequence; may be repeated")
          ->check(count)
          ->take_all();
  if (options.lengths.empty()) {
    length->default_str("the context");
  } else {
    length->capture_default_str();
  }
  verb.add_option(prefix + "key-tokens", options.key_tokens,
                  "of a passkey, and of keys and values of kv_retrieval")
      ->check(count)
      ->capture_default_str();
  verb.add_option(prefix + "pairs", options.pairs, "of mqar")->check(count)->capture_default_str();
  verb.add_option(prefix + "segment", options.segment, "tokens that copy repeats")
      ->check(count)
      ->capture_default_str();
  verb.add_option(prefix + "seed", options.seed, "of the samples")->capture_default_str();
}

}  // namespace kvsmith
