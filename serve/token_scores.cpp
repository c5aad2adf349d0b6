#include "serve/token_scores.h"

#include <algorithm>

#include <torch/types.h>

#include "core/error.h"

namespace kvsmith {

ScoredToken score_token(const at::Tensor& logits, int32_t id, int64_t alternatives, int64_t known) {
  const auto logprobs = torch::log_softmax(logits, 0);
  const double own = logprobs[id].item<double>();
  if (own != own) {
    throw Error(ExitCode::kNumerical, {"a logit is not a number", "scores",
                                       "the checkpoint may be damaged, or bf16 too coarse for it"});
  }
  ScoredToken out{id, own, {}};
  if (alternatives <= 0) return out;
  const auto [values, ids] =
      logprobs.narrow(0, 0, known).topk(std::min(alternatives, known), 0, true, /*sorted=*/true);
  for (int64_t i = 0; i < values.size(0); ++i)
    out.top.emplace_back(ids[i].item<int32_t>(), values[i].item<double>());
  return out;
}

std::vector<ScoredToken> score_tokens(const DecoderImpl& model,
                                      const at::Tensor& hidden,
                                      std::span<const int32_t> ids,
                                      int64_t alternatives,
                                      int64_t known) {
  constexpr int64_t kSlice = 64;  // logits of a whole prompt may be larger than its cache
  const auto count = static_cast<int64_t>(ids.size());
  std::vector<ScoredToken> out;
  for (int64_t first = 0; first < count; first += kSlice) {
    const int64_t rows = std::min(kSlice, count - first);
    const auto logits = model.logits(hidden.narrow(0, first, rows)).cpu();
    for (int64_t i = 0; i < rows; ++i)
      out.push_back(
          score_token(logits[i], ids[static_cast<size_t>(first + i)], alternatives, known));
  }
  return out;
}

}  // namespace kvsmith
