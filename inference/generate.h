#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cache/cache_plan.h"
#include "checkpoints/load.h"
#include "inference/sampler.h"

namespace kvsmith {

struct GenerateOptions {
  int64_t max_new_tokens = 128;
  SamplingOptions sampling;
  std::vector<std::string> stop;    ///< texts that end a sequence; not part of the result
  std::vector<int32_t> end_tokens;  ///< tokens that do, beside the model's end-of-text
  /// What is done to the cache; shares of it are of the longest prompt and its new tokens.
  std::optional<CacheConfig> cache = {};
};

struct Generation {
  std::string text;  ///< what was generated, without the prompt
  std::vector<int32_t> tokens;
  std::string finish;  ///< "stop", "eos" (end-of-text and other end tokens) or "length"
};

struct GenerateStats {
  int64_t prompt_tokens = 0, new_tokens = 0;
  double prefill_seconds = 0, decode_seconds = 0;
  int64_t cache_bytes = 0, cache_bytes_reserved = 0;  ///< at the end
};

/// Throws Error (64) where the model has none.
const Tokenizer& tokenizer_of(const LoadedModel& model);

/// How many of the logits stand for a token: a vocabulary that was rounded up for speed has more.
/// Throws as tokenizer_of().
int64_t known_tokens(const LoadedModel& model);

/// Whether `token` ends a text of `model`: its end-of-text and what stands for it, or one of
/// `end_tokens`.
bool ends_text(const LoadedModel& model, const std::vector<int32_t>& end_tokens, int64_t token);

/// The ids of a text to continue, behind begin-of-text where the model has it.
std::vector<int32_t> text_prompt(const LoadedModel& model, std::string_view text);

/// Continues all prompts, which are token ids, as one batch of sequences of different lengths, one
/// cache for all. `on_text(sequence, piece)` is called with whole UTF-8 characters as they appear.
/// Throws Error (64) without tokenizer, for a prompt without tokens, or when prompt and new tokens
/// exceed max_position_embeddings.
std::vector<Generation> generate(LoadedModel& model,
                                 const std::vector<std::vector<int32_t>>& prompts,
                                 const GenerateOptions& options,
                                 GenerateStats* stats = nullptr,
                                 const std::function<void(size_t, std::string_view)>& on_text = {});

}  // namespace kvsmith
