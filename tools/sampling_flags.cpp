#include "tools/sampling_flags.h"

#include <algorithm>
#include <vector>

#include <CLI/CLI.hpp>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {

void add_sampling_flags(CLI::App& verb, GenerateOptions& options) {
  verb.add_option("--max-new-tokens,-n", options.max_new_tokens, "tokens to add")
      ->capture_default_str();
  verb.add_option("--temperature", options.sampling.temperature, "0: greedy")
      ->capture_default_str();
  verb.add_option("--top-k", options.sampling.top_k, "only the k likeliest tokens; 0: all");
  verb.add_option("--top-p", options.sampling.top_p,
                  "only the likeliest tokens of this total probability")
      ->capture_default_str();
  verb.add_option("--seed", options.sampling.seed, "same seed, same text");
}

void set_sampling(GenerateOptions& options, const std::string& name, const std::string& value) {
  CLI::App app;
  app.set_help_flag();
  add_sampling_flags(app, options);
  std::vector<std::string> names;
  for (const auto* option : app.get_options()) names.push_back(option->get_lnames().at(0));
  if (std::ranges::count(names, name) == 0) {
    throw Error(ExitCode::kUsage,
                {"no setting " + in_quotes(name), "sampling", suggestion(name, names)});
  }
  try {
    app.parse("--" + name + "=" + value);
  } catch (const CLI::ParseError& error) {
    throw Error(ExitCode::kUsage, {error.what(), "sampling", "give a number"});
  }
}

std::string sampling_text(const GenerateOptions& options) {
  const SamplingOptions& sampling = options.sampling;
  return cat("temperature ", sampling.temperature, ", top-k ", sampling.top_k, ", top-p ",
             sampling.top_p, ", seed ", sampling.seed, ", max-new-tokens ", options.max_new_tokens);
}

}  // namespace kvsmith
