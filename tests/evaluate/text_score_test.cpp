#include "evaluate/text_score.h"

#include <cmath>

#include <torch/types.h>

#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

Decoder random_model(ModelConfig config = tiny_model()) {
  Decoder model(config);
  initialize(*model, 8);
  model->eval();
  return model;
}

/// Tokens that follow from one another, as many as wanted.
std::vector<int32_t> text_of(int64_t count) {
  std::vector<int32_t> ids = {1};
  while (std::ssize(ids) < count) ids.push_back(3 + (ids.back() * 5 + 7) % 64);
  return ids;
}

/// Mean over the windows, one after the other.
double naive_nll(Decoder model, const std::vector<int32_t>& ids, int64_t context) {
  const torch::NoGradGuard no_grad;
  const auto all = torch::tensor(ids, torch::kLong);
  double sum = 0;
  int64_t scored = 0;
  for (const auto& window : all.split(context)) {
    const int64_t count = window.size(0) - 1;
    if (count == 0) continue;
    const auto log_p =
        torch::log_softmax(model->forward(window.narrow(0, 0, count).unsqueeze(0))[0], -1);
    sum -= log_p.gather(1, window.narrow(0, 1, count).unsqueeze(1)).sum().item<double>();
    scored += count;
  }
  return sum / static_cast<double>(scored);
}

TEST(TextScore, IsTheMeanOverWindowsThatBeginFromNothing) {
  Decoder model = random_model();
  const struct {
    int64_t length, context, scored;
  } cases[] = {{2, 16, 1}, {16, 16, 15}, {17, 16, 15}, {18, 16, 16}, {100, 16, 93}, {100, 128, 99}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.length);
    const auto ids = text_of(c.length);
    const TextScore score = score_text(*model, ids, c.context);
    EXPECT_EQ(score.tokens, c.scored);
    const double want = naive_nll(model, ids, c.context);
    EXPECT_NEAR(score.nll, want, 1e-5 * want);
    EXPECT_NEAR(score.perplexity(), std::exp(score.nll), 1e-9 * score.perplexity());
  }
}

TEST(TextScore, TokenFrequenciesAreThoseOfScoredTokens) {
  Decoder model = random_model();
  // two windows: 5 begins the first, 6 the second, and neither is scored
  const TextScore score = score_text(*model, {5, 7, 7, 8, 6, 7, 8, 8}, 4);
  EXPECT_EQ(score.tokens, 6);
  EXPECT_NEAR(score.unigram_nll, std::log(2.0), 1e-12);
}

TEST(TextScore, JudgesLongTextsOnly) {
  Decoder model = random_model();  // untrained: worse than frequencies
  EXPECT_FALSE(score_text(*model, text_of(500), 64).looks_like_language_model().has_value());
  EXPECT_EQ(score_text(*model, text_of(1500), 64).looks_like_language_model(), false);
  EXPECT_EQ((TextScore{.tokens = 1000, .nll = 2, .unigram_nll = 3}).looks_like_language_model(),
            true);
}

TEST(TextScore, NeedsTwoTokens) {
  Decoder model = random_model();
  expect_error([&] { score_text(*model, {1}, 16); }, ExitCode::kBadData, "less than two tokens");
}

}  // namespace
}  // namespace kvsmith
