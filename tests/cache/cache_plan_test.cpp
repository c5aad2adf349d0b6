#include "cache/cache_plan.h"

#include <gtest/gtest.h>

#include "tests/cache/managed_cases.h"
#include "tests/support/close.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

constexpr int64_t kTokens = 40;

class RowsOf : public ::testing::TestWithParam<LayerCase> {};
INSTANTIATE_TEST_SUITE_P(Kinds, RowsOf, ::testing::ValuesIn(layer_cases()), [](const auto& layer) {
  return layer.param.name;
});

TEST_P(RowsOf, StreamsHoldWhatTheFormulaOfTheLayerSays) {
  const ModelConfig& config = GetParam().config;
  const KvGraph graph(config);
  CacheConfig options;
  options.codec_k = options.codec_v = "bf16";
  const CachePlan plan(options, config, at::kFloat, kTokens);
  for (int64_t layer = 0; layer < graph.size(); ++layer) {
    if (const LayerPlan* rows = plan.of(layer)) {
      const int64_t index = graph[layer].window > 0 ? 4 * rows->facts.heads : 0;
      EXPECT_EQ(rows->bytes(1) - index, layer_cache_bytes(config, graph, layer, 1, 2)) << layer;
    }
  }
}

TEST_P(RowsOf, StoredAsComputedAreTheFullCache) {
  Decoder model = managed_model(GetParam().config);
  CacheConfig options;
  options.codec_k = options.codec_v = "fp32";
  const CachePlan plan(options, model->config(), at::kFloat, kTokens);
  const auto tokens = random_tokens(2, 30);
  auto full = model->make_cache({.batch = 2});
  auto managed = plan.make(*model, {.batch = 2});
  EXPECT_TRUE(close(logits_through(model, tokens, managed, 5),
                    logits_through(model, tokens, full, 5), 5e-6));
  EXPECT_EQ(managed.bytes_used(), 2 * plan.bytes(30, 5));
}

TEST(Windows, KeepTheirRowsWhereRoomIsMadeBeforeAttention) {
  Decoder model = managed_model(pattern("local-global-2-1").config);
  auto config = small_budget("h2o", kTokens);
  config.codec_k = config.codec_v = "fp32";
  config.evict = "before";
  auto managed = CachePlan(config, model->config(), at::kFloat, kTokens).make(*model, {.batch = 2});
  auto full = model->make_cache({.batch = 2});
  const auto tokens = random_tokens(2, kTokens);
  const torch::NoGradGuard no_grad;
  constexpr int64_t kStep = 8;
  for (int64_t first = 0; first < kTokens; first += kStep) {
    const auto step = tokens.narrow(1, first, kStep);
    const auto where = Positions::range(first, kStep);
    EXPECT_TRUE(close(model->step(step, where, managed), model->step(step, where, full), 1e-5))
        << "from token " << first;
  }
}

class Codec : public ::testing::TestWithParam<RowCodecKind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, Codec, ::testing::ValuesIn(row_codecs()), [](const auto& kind) {
  return kind.param.name;
});

TEST_P(Codec, StacksOnAPolicyWithTheBytesOfTheFormula) {
  Decoder model = managed_model(tiny_model(2, [](auto& c) { c.head_dim = 32; }));
  const auto tokens = random_tokens(2, kTokens);
  const auto read = [&](CacheConfig config) {
    const CachePlan plan(config, model->config(), at::kFloat, kTokens);
    auto cache = plan.make(*model, {.batch = 2});
    const auto logits = logits_through(model, tokens, cache);
    EXPECT_EQ(cache.bytes_used(), 2 * plan.bytes(kTokens));
    EXPECT_EQ(cache.ledger().resident(), cache.bytes_used());
    return logits;
  };
  // keys decide what window keeps, whatever their precision
  auto config = small_budget("window");
  const auto exact = read(config);
  config.codec_k = config.codec_v = GetParam().name;
  const auto coded = read(config);
  const double bound = GetParam().name == "int2" ? 0.8 : 0.35;
  EXPECT_LT((coded - exact).norm().item<double>(), bound * exact.norm().item<double>());
  EXPECT_EQ(GetParam().name == "fp32", coded.equal(exact));
}

TEST(Kivi, UnderAPlanHoldsTheBytesOfItsFormulaAndOtherLayersStayExact) {
  Decoder model = managed_model(tiny_model(2, [](auto& c) {
    c.head_dim = 32;
    c.num_hidden_layers = 3;
  }));
  CacheConfig config;
  config.codec_k = config.codec_v = "kivi4";
  config.q_group_size = 8;
  config.residual_length = 16;
  config.full_precision_layers = {1};
  const CachePlan plan(config, model->config(), at::kFloat, kTokens);
  auto cache = plan.make(*model, {.batch = 2});
  const auto tokens = random_tokens(2, kTokens);
  auto full = model->make_cache({.batch = 2});
  EXPECT_TRUE(
      close(logits_through(model, tokens, cache), logits_through(model, tokens, full), 0.3));
  EXPECT_EQ(cache.bytes_used(), 2 * plan.bytes(kTokens));
  EXPECT_EQ(plan.of(1)->bytes(kTokens),
            layer_cache_bytes(model->config(), model->graph(), 1, kTokens, 4));
  EXPECT_LT(plan.of(0)->bytes(kTokens), plan.of(1)->bytes(kTokens) * 6 / 10);
}

TEST(Paged, AForkFromAnEarlierPositionHasNoBlocksBeyondIt) {
  Decoder model = managed_model(tiny_model());
  CacheConfig config;
  config.store = "paged";
  config.block_tokens = 8;
  const CachePlan plan(config, model->config(), at::kFloat, kTokens);
  const auto tokens = random_tokens(1, kTokens);
  auto whole = plan.make(*model, {}), start = plan.make(*model, {});
  logits_through(model, tokens, whole);
  logits_through(model, tokens.narrow(1, 0, 20), start);
  auto fork = whole.fork(20);
  EXPECT_EQ(fork.bytes_used(), start.bytes_used());
  EXPECT_EQ(fork.bytes_reserved(), start.bytes_reserved());
  const torch::NoGradGuard no_grad;
  const auto next = [&](KvCache& cache) {
    return model->step(tokens.narrow(1, 30, 1), Positions::range(20, 1), cache);
  };
  EXPECT_TRUE(next(fork).equal(next(start)));
}

/// Key j seen from query i under in-cache positions, as one dense pass with pairwise rotations
/// would turn it, equals what the stream computes.
TEST(InCachePositions, TurnFromRawAndFromStoredKeysAlike) {
  Decoder model = managed_model(tiny_model());
  const auto tokens = random_tokens(2, kTokens);
  const auto logits = [&](const char* positions, int64_t budget) {
    auto config = small_budget("streaming", budget);
    config.positions = positions;
    auto cache = CachePlan(config, model->config(), at::kFloat, kTokens).make(*model, {.batch = 2});
    return logits_through(model, tokens, cache);
  };
  EXPECT_TRUE(close(logits("in_cache", 12), logits("in_cache_raw", 12), 1e-5));
  EXPECT_FALSE(close(logits("in_cache", 12), logits("original", 12), 1e-3));
  auto full = model->make_cache({.batch = 2});
  EXPECT_TRUE(close(logits("in_cache", kTokens), logits_through(model, tokens, full), 5e-6));
}

TEST(InCachePositions, OfSinksAndAWindowAreThoseOfAShortText) {
  // once the window has moved on, the cache looks like a text of sinks and window alone, but for
  // what the rows hold; in the first layer they hold the same
  Decoder model = managed_model(tiny_model(2, [](auto& c) { c.num_hidden_layers = 1; }));
  auto config = small_budget("streaming");
  config.positions = "in_cache";
  auto cache = CachePlan(config, model->config(), at::kFloat, kTokens).make(*model, {.batch = 1});
  const auto tokens = random_tokens(1, kTokens);
  const auto streamed = logits_through(model, tokens, cache);
  const auto seen = torch::cat({tokens.narrow(1, 0, 2), tokens.narrow(1, kTokens - 11, 11)}, 1);
  EXPECT_TRUE(close(streamed.select(1, kTokens - 1), model->forward(seen).select(1, 12), 1e-5));
}

TEST(Budget, IsTokensOrAShareOrBytes) {
  const ModelConfig model = tiny_model();
  auto config = small_budget("h2o", 0);
  config.budget_fraction = 0.5;
  EXPECT_EQ(CachePlan(config, model, at::kFloat, 40).budget(), 20);
  config.budget_fraction = 0;
  const int64_t bytes = CachePlan(small_budget("h2o", 17), model, at::kFloat, 40).bytes(40);
  config.budget_bytes = bytes;
  EXPECT_EQ(CachePlan(config, model, at::kFloat, 40).budget(), 17);
  config.budget_bytes = bytes - 1;
  EXPECT_EQ(CachePlan(config, model, at::kFloat, 40).budget(), 16);
}

TEST(Budget, OfAPyramidFallsAndSumsToTheSame) {
  const auto model = tiny_model(2, [](auto& c) { c.num_hidden_layers = 7; });
  auto config = small_budget("h2o", 29);
  config.allocator = "pyramid";
  const CachePlan plan(config, model, at::kFloat, 40);
  int64_t sum = 0;
  for (int64_t layer = 0; layer < 7; ++layer) {
    sum += plan.of(layer)->budget;
    EXPECT_GE(plan.of(layer)->budget, 7);
    if (layer > 0) {
      EXPECT_LE(plan.of(layer)->budget, plan.of(layer - 1)->budget);
    }
  }
  EXPECT_EQ(sum, 7 * 29);
  EXPECT_GT(plan.of(0)->budget, plan.of(6)->budget + 20);
}

TEST(CachePlan, RefusesWhatCannotBeCombined) {
  const auto refused = [](const std::function<void(CacheConfig&)>& change, const ModelConfig& model,
                          const char* part) {
    auto config = small_budget("h2o");
    change(config);
    expect_error([&] { CachePlan(config, model, at::kFloat, 40); }, ExitCode::kConfig, part);
  };
  const ModelConfig model = tiny_model();
  refused([](auto& c) { c.retention = "h20"; }, model, "did you mean \"h2o\"?");
  refused([](auto& c) { c.budget_tokens = 6; }, model, "give at least 7");
  refused([](auto& c) { c.budget_tokens = 0; }, model, "give one of them");
  refused([](auto& c) { c.budget_bytes = 100; }, model, "give one of them");
  refused([](auto& c) { c.pooling_kernel = 4; }, model, "odd");
  refused([](auto& c) { c.positions = "in_cache"; },
          tiny_model(2, [](auto& c) { c.attention_k_eq_v = true; }), "before their rotation");
  refused([](auto& /*c*/) {}, pattern("fusedkv").config, "keep different tokens");
  refused([](auto& /*c*/) {},
          option("bounded",
                 [](auto& c) {
                   c.layer_types = {"bounded"};
                   c.sliding_window = 5;
                   c.linear.num_slots = 4;
                 })
              .config,
          "no layer has a cache that grows");
}

}  // namespace
}  // namespace kvsmith
