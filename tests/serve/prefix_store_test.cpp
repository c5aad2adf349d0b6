#include "serve/prefix_store.h"

#include <gtest/gtest.h>
#include <torch/types.h>

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

TEST_F(PrefixStoreTest, AStartHasNoStorageBeyondItsTokensWhetherTheOriginalStaysOrGoes) {
  for (const bool stays : {true, false}) {
    store_.keep(some_prompt(60), read(some_prompt(60)));
    auto start = store_.start_of(some_prompt(21), bytes(stays ? 40 : 41));
    EXPECT_EQ(tokens_of(start), 20);
    EXPECT_EQ(start->cache.bytes_used(), bytes(20));
    EXPECT_EQ(start->cache.bytes_reserved(), bytes(20));
    EXPECT_EQ(budget_.promised(), bytes(stays ? 60 : 0));
    EXPECT_EQ(store_.bytes(), budget_.promised());
    // it grows by what comes, not to the length of the original
    const torch::NoGradGuard no_grad;
    model_->step(torch::full({1, 1}, 7, torch::kLong), Positions::range(20, 1), start->cache);
    EXPECT_EQ(start->cache.bytes_reserved(), bytes(21));
  }
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

}  // namespace
}  // namespace kvsmith
