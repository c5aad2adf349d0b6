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

TEST(CacheExactness, IsThatOfTheMethodAndOfEveryLayer) {
  const auto of = [](const std::function<void(ModelConfig&)>& change, const std::string& cache) {
    const auto config = tiny_model(2, change);
    const auto out = CacheExactness::of(KvGraph(config), cache_config_of(words_of(cache)));
    return std::pair(out.by_chunks, out.rewinds);
  };
  const auto plain = [](ModelConfig&) {};
  const auto window = [](ModelConfig& config) {
    config.layer_types = {"full", "sliding"};
    config.sliding_window = 8;
  };
  const auto state = [](ModelConfig& config) { config.layer_types = {"gated_delta"}; };
  const auto ahead = [](ModelConfig& config) {
    config.num_hidden_layers = 4;
    config.pattern = "lckv";
  };
  EXPECT_EQ(of(plain, "full"), std::pair(true, true));
  EXPECT_EQ(of(window, "full"), std::pair(true, false));
  EXPECT_EQ(of(state, "full"), std::pair(true, false));
  EXPECT_EQ(of(ahead, "full"), std::pair(false, false));
  for (const char* cache : {"int8", "h2o", "model/int8", "minicache"})
    EXPECT_EQ(of(plain, cache), std::pair(false, false)) << cache;
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
