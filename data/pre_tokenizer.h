#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace kvsmith {

/// The rules by which byte-level BPE tokenizers part a text before they merge. Each stands for the
/// regular expression of the model family it is named after; `smollm` parts digits, then is `gpt2`.
enum class PreTokenizer : uint8_t { kGpt2, kSmollm, kLlama3, kQwen2 };

/// By "gpt2", "smollm", "llama3", "qwen2", or the other names these have in GGUF files.
std::optional<PreTokenizer> pre_tokenizer_named(std::string_view name);
/// "gpt2", "smollm", "llama3", "qwen2".
std::vector<std::string> pre_tokenizer_names();

/// The expression as tokenizer.json files spell it.
std::string_view regex_of(PreTokenizer kind);
/// The rule with this expression.
std::optional<PreTokenizer> pre_tokenizer_of_regex(std::string_view regex);

/// The bytes of the first pre-token of `text`, valid UTF-8 and not empty, of which nothing follows.
/// The rest of the text is parted on its own: no rule looks back. Takes time in proportion to the
/// white space at the beginning and the pre-token.
size_t first_pre_token(PreTokenizer kind, std::string_view text);

/// The largest position from 1 to `limit` < text.size() at which a pre-token ends whatever comes
/// before and after, so that both sides can be encoded apart; 0 when there is none. `text` may be
/// invalid UTF-8 and may end within a code point.
size_t last_border(PreTokenizer kind, std::string_view text, size_t limit);

}  // namespace kvsmith
