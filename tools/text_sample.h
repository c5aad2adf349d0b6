#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "checkpoints/load.h"
#include "evaluate/text_score.h"

namespace CLI {
class App;
}

namespace kvsmith {

/// A piece of a text that a verb looks at.
struct TextSample {
  std::filesystem::path path;
  int64_t tokens = 16384, context = 1024;
};

/// Adds `name` with this help, and `name`-tokens and `name`-context.
void add_text_flags(CLI::App& verb, TextSample& sample, const std::string& name, const char* help);

/// The first tokens of the file, behind a begin-of-text where the model has one. Throws Error (65)
/// for a text that is not UTF-8, 78 for a model without tokenizer.
std::vector<int32_t> read_sample(const LoadedModel& model, const TextSample& sample);

/// "perplexity 21.31 over 16,384 tokens of test.txt, context 1024: a language model".
std::string describe(const TextScore& score, const TextSample& sample);

}  // namespace kvsmith
