#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoints/load.h"
#include "inference/sampler.h"

namespace kvsmith {

struct GenerateOptions {
  int64_t max_new_tokens = 128;
  SamplingOptions sampling;
  std::vector<std::string> stop;  ///< texts that end a sequence; not part of the result
};

struct Generation {
  std::string text;  ///< what was generated, without the prompt
  std::vector<int32_t> tokens;
  std::string finish;  ///< "stop", "eos" or "length"
};

struct GenerateStats {
  int64_t prompt_tokens = 0, new_tokens = 0;
  double prefill_seconds = 0, decode_seconds = 0;
  int64_t cache_bytes = 0, cache_bytes_reserved = 0;  ///< at the end
};

/// Continues all prompts as one batch of sequences of different lengths, one cache for all.
/// `on_text(sequence, piece)` is called with whole UTF-8 characters as they appear.
/// Throws Error (64) without tokenizer, or when prompt and new tokens exceed
/// max_position_embeddings.
std::vector<Generation> generate(LoadedModel& model,
                                 const std::vector<std::string>& prompts,
                                 const GenerateOptions& options,
                                 GenerateStats* stats = nullptr,
                                 const std::function<void(size_t, std::string_view)>& on_text = {});

}  // namespace kvsmith
