#include "serve/prefix_store.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "cache/cache_options.h"
#include "tests/serve/small_engine.h"

namespace kvsmith {
namespace {

class PrefixStoreTest : public ::testing::Test {
 protected:
  /// A cache that has read `tokens`, with no storage beyond them.
  KvCache read(const std::vector<int32_t>& tokens) {
    const auto count = static_cast<int64_t>(tokens.size());
    auto cache = model_->make_cache({.initial_rows = count, .growth_rows = 1});
    const torch::NoGradGuard no_grad;
    model_->step(torch::tensor(tokens, torch::kLong).unsqueeze(0), Positions::range(0, count),
                 cache);
    return cache;
  }
  int64_t bytes(int64_t tokens) const { return kv_cache_bytes(model_->config(), tokens, 4); }
  static int64_t tokens_of(const std::optional<PrefixStore::Start>& start) {
    return start ? start->tokens : 0;
  }

  Decoder model_ = [] {
    Decoder model(tiny_model(2, [](ModelConfig& config) { config.vocab_size = 600; }));
    initialize(*model, 1);
    return model;
  }();
  CacheBudget budget_{bytes(100)};
  PrefixStore store_{model_->graph(), {}, budget_};
};

TEST_F(PrefixStoreTest, TheLeastRecentlyUsedGoFirst) {
  for (int32_t i = 0; i < 3; ++i) store_.keep(some_prompt(30, i), read(some_prompt(30, i)));
  EXPECT_EQ(budget_.promised(), bytes(90));
  EXPECT_EQ(tokens_of(store_.start_of(some_prompt(40, 0), bytes(10))), 30);  // used again
  store_.make_room(bytes(40));
  EXPECT_EQ(budget_.promised(), bytes(60));
  EXPECT_EQ(tokens_of(store_.start_of(some_prompt(40, 1), bytes(10))), 0);
  EXPECT_EQ(tokens_of(store_.start_of(some_prompt(40, 0), bytes(10))), 30);
}

TEST_F(PrefixStoreTest, HandsOutTheOriginalWhereACopyHasNoRoom) {
  store_.keep(some_prompt(60), read(some_prompt(60)));
  const auto start = store_.start_of(some_prompt(50), bytes(80));
  EXPECT_EQ(tokens_of(start), 49);
  EXPECT_EQ(start->cache.bytes_used(), bytes(49));
  EXPECT_EQ(budget_.promised(), 0);
  EXPECT_EQ(store_.bytes(), 0);
}

TEST_F(PrefixStoreTest, OfTextsThatBeginAlikeTheLongestStays) {
  store_.keep(some_prompt(20), read(some_prompt(20)));
  store_.keep(some_prompt(40), read(some_prompt(40)));
  store_.keep(some_prompt(30), read(some_prompt(30)));
  EXPECT_EQ(store_.bytes(), bytes(40));
  store_.keep(some_prompt(110), read(some_prompt(110)));  // more than there may be
  EXPECT_EQ(store_.bytes_used(), bytes(40));
}

TEST_F(PrefixStoreTest, RowsOfOneModelServeNoOther) {
  store_.keep(some_prompt(40), read(some_prompt(40)), 1);
  EXPECT_EQ(tokens_of(store_.start_of(some_prompt(50), bytes(10))), 0);
  store_.keep(some_prompt(30), read(some_prompt(30)));  // does not begin the other's text
  EXPECT_EQ(store_.bytes(), bytes(70));
  EXPECT_EQ(tokens_of(store_.start_of(some_prompt(50), bytes(10), 1)), 40);
  EXPECT_EQ(tokens_of(store_.start_of(some_prompt(50), bytes(10))), 30);
}

TEST(MostBytes, IsThatOfTheLongestTextButWhereGroupsFill) {
  const auto config = tiny_model(2, [](ModelConfig& c) { c.head_dim = 8; });
  const CachePlan full({}, config, at::kFloat, 128);
  EXPECT_EQ(most_bytes(full, 10, 5), full.bytes(14));
  EXPECT_EQ(most_bytes(full, 10, 0), full.bytes(10));
  const CachePlan kivi(cache_config_of({"kivi2", "q_group_size=8", "residual_length=8"}), config,
                       at::kFloat, 128);
  // the eighth token makes 8 keys small at once
  EXPECT_LT(kivi.bytes(16, 10), kivi.bytes(15, 10));
  EXPECT_EQ(most_bytes(kivi, 10, 7), kivi.bytes(15, 10));
}

}  // namespace
}  // namespace kvsmith
