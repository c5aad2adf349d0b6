#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "models/decoder.h"

namespace kvsmith {

/// How well a model predicts one text.
struct TextScore {
  int64_t tokens = 0;      ///< scored
  double nll = 0;          ///< mean of a token, in nats
  double unigram_nll = 0;  ///< of a model that knows how often each token occurs in this very text

  double perplexity() const;
  /// Whether it predicts better than token frequencies: weights in the wrong order do not. Of a
  /// short text the frequencies say too much: no verdict.
  std::optional<bool> looks_like_language_model() const;
};

/// Scores `ids`, a text from its beginning, in windows of `context` tokens, each in one pass and
/// from nothing; the first token of a window is not scored. Throws Error (65) for less than two
/// tokens.
TextScore score_text(DecoderImpl& model, const std::vector<int32_t>& ids, int64_t context);

}  // namespace kvsmith
