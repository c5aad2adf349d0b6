#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "evaluate/text_score.h"

namespace CLI {
class App;
}

namespace kvsmith {

class Console;

/// A piece of a text that a verb looks at.
struct TextSample {
  std::filesystem::path path = {};
  int64_t tokens = 16384, context = 1024;
  bool has_tokens = false, has_context = false;  ///< they were given
};

/// Adds `name` with this help, and `name`-tokens and `name`-context.
void add_text_flags(CLI::App& verb, TextSample& sample, const std::string& name, const char* help);

/// Makes a context that was not given no longer than `longest`, the model's
/// max_position_embeddings, and tells of one that was and is.
void limit_context(TextSample& sample, int64_t longest, Console& console);

/// The first tokens of the file, behind begin-of-text where texts of the tokenizer begin with it.
/// (config.json has a begin-of-text even for models that are never shown it.) Throws Error (65) for
/// a text that is not UTF-8 or has less than two tokens, 78 without a tokenizer; `problem` says why
/// there is none, where there is a file of one.
std::vector<int32_t> read_sample(const std::optional<Tokenizer>& tokenizer,
                                 const TextSample& sample,
                                 const std::string& problem = "");

/// "perplexity 21.31 over 16368 tokens of test.txt, context 1024: looks like a language model".
std::string describe(const TextScore& score, const TextSample& sample);

}  // namespace kvsmith
