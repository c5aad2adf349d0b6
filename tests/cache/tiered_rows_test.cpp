#include "cache/tiered_rows.h"

#include <set>

#include <gtest/gtest.h>

#include "tests/cache/managed_cases.h"
#include "tests/support/close.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

constexpr int64_t kTokens = 40, kPrompt = 24, kRecent = 6;
/// Codes of rows that differ by the rounding of a sum may round the other way.
constexpr double kCodeFlips = 2e-3;

CacheConfig lean(double alpha_high, double alpha_low) {
  CacheConfig config;
  config.retention = "leankv";
  config.codec_k = "int8";
  config.codec_v = "int4";
  config.alpha_high = alpha_high;
  config.alpha_low = alpha_low;
  config.protect_sinks = 1;
  config.protect_recent = kRecent;
  return config;
}

/// Every architecture but those that LeanKV refuses.
class LeanKv : public ::testing::TestWithParam<LayerCase> {
 protected:
  KvCache cache(const CacheConfig& config, int64_t batch = 1) const {
    return CachePlan(config, model_->config(), at::kFloat, kTokens)
        .make(*model_, {.batch = batch, .growth_rows = 1});
  }
  /// Of every layer with tiers.
  static std::vector<TieredRows*> tiers(KvCache& cache, const DecoderImpl& model) {
    std::vector<TieredRows*> out;
    for (int64_t layer = 0; layer < model.graph().size(); ++layer)
      if (cache.has_rows(layer))
        if (auto* rows = dynamic_cast<TieredRows*>(&cache.of(layer))) out.push_back(rows);
    return out;
  }

  Decoder model_ = managed_model(GetParam().config);
};

std::vector<LayerCase> without_reading_ahead() {
  auto out = managed_architectures();
  std::erase_if(out, [](const LayerCase& item) { return item.name == "lckv"; });
  return out;
}

INSTANTIATE_TEST_SUITE_P(Architectures,
                         LeanKv,
                         ::testing::ValuesIn(without_reading_ahead()),
                         [](const auto& item) {
                           std::string name = item.param.name;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST_P(LeanKv, WithoutThresholdsIsTheFineCodec) {
  const auto tokens = random_tokens(2, kTokens);
  auto lean_cache = cache(lean(0, 0), 2);
  auto plain = lean(0, 0);
  plain.retention = "full";
  auto plain_cache = cache(plain, 2);
  EXPECT_TRUE(close(logits_through(model_, tokens, lean_cache, kPrompt),
                    logits_through(model_, tokens, plain_cache, kPrompt), kCodeFlips));
  for (const auto* rows : tiers(lean_cache, *model_)) EXPECT_EQ(rows->coarse_rows(), 0);
}

TEST_P(LeanKv, WithAnEndlessThresholdOnlyProtectedRowsStayFine) {
  const auto tokens = random_tokens(1, kTokens);
  auto cache = this->cache(lean(1e6, 0));
  logits_through(model_, tokens, cache, kPrompt);
  const auto all = tiers(cache, *model_);
  ASSERT_FALSE(all.empty());
  for (const auto* rows : all) {
    const int64_t heads = (rows->fine_rows() + rows->coarse_rows()) / kTokens;
    EXPECT_EQ(rows->fine_rows(), heads * (1 + kRecent));
    EXPECT_EQ(rows->coarse_rows(), heads * (kTokens - 1 - kRecent));
  }
}

TEST_P(LeanKv, ARowIsInOneTierAndProtectedOnesStay) {
  const auto tokens = random_tokens(2, kTokens);
  auto cache = this->cache(lean(4, 1.5), 2);
  logits_through(model_, tokens, cache, kPrompt);
  int64_t coarse = 0, gone = 0;
  for (const auto* rows : tiers(cache, *model_)) {
    const auto at = rows->read().positions.at();
    for (int64_t b = 0; b < at.size(0); ++b)
      for (int64_t head = 0; head < at.size(1); ++head) {
        std::set<int64_t> seen;
        for (int64_t row = 0; row < at.size(2); ++row) {
          const auto position = at[b][head][row].item<int64_t>();
          if (position < 0) continue;
          EXPECT_TRUE(seen.insert(position).second);
        }
        EXPECT_TRUE(seen.contains(0));
        for (int64_t i = kTokens - kRecent; i < kTokens; ++i) EXPECT_TRUE(seen.contains(i));
        gone += kTokens - static_cast<int64_t>(seen.size());
      }
    coarse += rows->coarse_rows();
  }
  EXPECT_GT(coarse, 0);
  EXPECT_GT(gone, 0);
}

TEST_P(LeanKv, CountsItsBytesFromItsTiers) {
  const auto tokens = random_tokens(2, kTokens);
  const CachePlan plan(lean(4, 1.5), model_->config(), at::kFloat, kTokens);
  auto cache = plan.make(*model_, {.batch = 2, .growth_rows = 1});
  logits_through(model_, tokens, cache, kPrompt);
  for (int64_t layer = 0; layer < model_->graph().size(); ++layer) {
    const LayerPlan* of_layer = plan.of(layer);
    if (!of_layer || !of_layer->is_tiered()) continue;
    const auto& rows = dynamic_cast<const TieredRows&>(cache.of(layer));
    const ByteLedger ledger = rows.ledger();
    EXPECT_EQ(ledger.resident(), rows.fine_rows() * of_layer->row_bytes(true) +
                                     rows.coarse_rows() * of_layer->row_bytes(false));
    EXPECT_GE(ledger.reserved, ledger.resident());
    EXPECT_EQ(ledger.codec_metadata,
              rows.fine_rows() * of_layer->codec_metadata_bytes(true) +
                  rows.coarse_rows() * of_layer->codec_metadata_bytes(false));
  }
  EXPECT_LT(cache.bytes_used(), 2 * plan.bytes(kTokens));
}

TEST_P(LeanKv, SequencesOfABatchDoNotMix) {
  const auto tokens = random_tokens(3, kTokens);
  auto together = cache(lean(4, 1.5), 3);
  const auto logits = logits_through(model_, tokens, together, kPrompt);
  for (int64_t b = 0; b < 3; ++b) {
    auto alone = cache(lean(4, 1.5));
    EXPECT_TRUE(close(logits_through(model_, tokens.narrow(0, b, 1), alone, kPrompt),
                      logits.narrow(0, b, 1), kCodeFlips));
  }
}

TEST_P(LeanKv, LaterTokensChangeNothingBefore) {
  auto tokens = random_tokens(1, kTokens);
  auto first = cache(lean(4, 1.5));
  const auto before = logits_through(model_, tokens, first, kPrompt);
  tokens.narrow(1, 30, 10).fill_(2);
  auto second = cache(lean(4, 1.5));
  const auto after = logits_through(model_, tokens, second, kPrompt);
  EXPECT_TRUE(before.narrow(1, 0, 30).equal(after.narrow(1, 0, 30)));
}

TEST_P(LeanKv, AForkGoesOnByItself) {
  const CachePlan plan(lean(4, 1.5), model_->config(), at::kFloat, kTokens);
  EXPECT_TRUE(forks_apart(model_, random_tokens(1, 30), plan));
}

TEST_P(LeanKv, SequencesOfUnequalLengthsEqualEachAlone) {
  const CachePlan plan(lean(4, 1.5), model_->config(), at::kFloat, kTokens);
  EXPECT_LT(mixing_of_unequal_lengths(model_, plan, random_tokens(2, kTokens)), kCodeFlips);
}

TEST(LeanKvConfig, RefusesWhatItCannotStore) {
  const auto plan = [](const CacheConfig& config, const LayerCase& model) {
    return CachePlan(config, model.config, at::kFloat, kTokens);
  };
  const auto models = managed_architectures();
  const auto& gqa = models[0];
  const auto lckv = std::ranges::find(models, "lckv", &LayerCase::name);
  expect_error([&] { plan(lean(1, 0.1), *lckv); }, ExitCode::kConfig, "read ahead");
  expect_error([&] { plan(lean(0.1, 1), gqa); }, ExitCode::kConfig, "give at most 0.1");
  auto config = lean(1, 0.1);
  config.budget_tokens = 20;
  expect_error([&] { plan(config, gqa); }, ExitCode::kConfig, "no budget");
  config = lean(1, 0.1);
  config.codec_k = config.codec_v = "kivi2";
  expect_error([&] { plan(config, gqa); }, ExitCode::kConfig, "several tokens together");
  config = lean(1, 0.1);
  config.coarse_v = "int3";
  expect_error([&] { plan(config, gqa); }, ExitCode::kConfig, "int3");
}

}  // namespace
}  // namespace kvsmith
