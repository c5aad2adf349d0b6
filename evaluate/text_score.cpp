#include "evaluate/text_score.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <torch/types.h>

#include "core/error.h"
#include "ops/losses.h"

namespace kvsmith {

double TextScore::perplexity() const { return std::exp(nll); }

std::optional<bool> TextScore::looks_like_language_model() const {
  constexpr int64_t kEnough = 1000;
  if (tokens < kEnough) return {};
  return nll < unigram_nll;
}

TextScore score_text(DecoderImpl& model, const std::vector<int32_t>& ids, int64_t context) {
  const torch::NoGradGuard no_grad;
  const auto count = static_cast<int64_t>(ids.size());
  if (count < 2) throw Error(ExitCode::kBadData, {"less than two tokens", "the text", ""});
  const auto all = torch::tensor(ids, torch::kLong).unsqueeze(0).to(model.device());
  TextScore score;
  std::map<int32_t, int64_t> occurrences;
  for (int64_t first = 0; first + 1 < count; first += context) {
    const int64_t scored = std::min(context - 1, count - first - 1);
    if (scored < 1) break;
    const auto window = all.narrow(1, first, scored + 1);
    auto cache = model.make_transient();
    const auto hidden =
        model.step(window.narrow(1, 0, scored), Positions::range(0, scored, model.device()), cache);
    score.nll += linear_cross_entropy(hidden.flatten(0, 1), model.head_weight(),
                                      window.narrow(1, 1, scored).flatten())
                     .item<double>();
    score.tokens += scored;
    for (int64_t i = first + 1; i <= first + scored; ++i)
      ++occurrences[ids[static_cast<size_t>(i)]];
  }
  const auto tokens = static_cast<double>(score.tokens);
  for (const auto& [id, times] : occurrences) {
    const auto n = static_cast<double>(times);
    score.unigram_nll -= n / tokens * std::log(n / tokens);
  }
  score.nll /= tokens;
  return score;
}

}  // namespace kvsmith
