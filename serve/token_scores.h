#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <ATen/core/Tensor.h>

#include "models/decoder.h"
#include "serve/text_request.h"

namespace kvsmith {

/// The score of `id` and the likeliest `alternatives` tokens. Throws Error (80) where a logit is
/// NaN. logits: [vocab_size] fp32; `known`: of these, first ones that stand for a token.
ScoredToken score_token(const at::Tensor& logits, int32_t id, int64_t alternatives, int64_t known);

/// The scores of tokens, each after the hidden state in its place. hidden: [tokens, hidden_size].
std::vector<ScoredToken> score_tokens(const DecoderImpl& model,
                                      const at::Tensor& hidden,
                                      std::span<const int32_t> ids,
                                      int64_t alternatives,
                                      int64_t known);

}  // namespace kvsmith
