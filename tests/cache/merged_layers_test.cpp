#include "cache/merged_layers.h"

#include <gtest/gtest.h>

#include "tests/cache/managed_cases.h"
#include "tests/support/close.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

constexpr int64_t kTokens = 40, kPrompt = 24;
constexpr double kHalfDigits = 1e-3;  // lengths are fp16

CacheConfig minicache(double angle, double t = 0.6) {
  CacheConfig config;
  config.depth_merge = "minicache";
  config.merge_from = 0;
  config.merge_angle = angle;
  config.merge_t = t;
  return config;
}

/// Two layers that remember what is written into them.
class TwoLayers {
 public:
  explicit TwoLayers(const CacheConfig& config, int64_t batch = 1) : plan_(plan_of(config)) {
    auto lower = std::make_unique<MergedLayers>(std::make_shared<LayerPlan>(*plan_.of(0)),
                                                CacheOptions{.batch = batch, .growth_rows = 1});
    lower_ = lower.get();
    std::vector<std::unique_ptr<Memory>> layers;
    layers.push_back(std::move(lower));
    layers.push_back(std::make_unique<UpperLayer>(0));
    cache_.emplace(std::move(layers));
    cache_->attach();
  }

  /// rows: [batch, heads, seq, width], keys and values of both layers alike.
  void write(const at::Tensor& lower, const at::Tensor& upper, int64_t first) {
    const auto positions = Positions::range(first, lower.size(2));
    cache_->rows_of(0).write(positions, {lower, lower});
    cache_->rows_of(0).settle();
    cache_->rows_of(1).write(positions, {upper, upper});
    cache_->rows_of(1).settle();
  }
  /// Keys of a layer in the order of the text.
  at::Tensor keys(int64_t layer) {
    const auto rows = cache_->rows_of(layer).read();
    const auto order = torch::argsort(rows.positions.by_head(), int64_t{2});
    return rows.streams[0].gather(2, order.unsqueeze(3).expand_as(rows.streams[0]));
  }
  MergedLayers& lower() { return *lower_; }
  const LayerPlan& plan() const { return *plan_.of(0); }
  int64_t heads() const { return plan().facts.heads; }
  int64_t width() const { return plan().streams[0].shape.width; }

 private:
  static CachePlan plan_of(const CacheConfig& config) {
    return {config, tiny_model(2, [](ModelConfig& /*config*/) {}), at::kFloat, kTokens};
  }

  CachePlan plan_;
  MergedLayers* lower_ = nullptr;
  std::optional<KvCache> cache_;
};

at::Tensor rows_for(const TwoLayers& layers, int64_t seq, uint64_t seed = 1) {
  torch::manual_seed(seed);
  return torch::randn({1, layers.heads(), seq, layers.width()});
}

TEST(MergedLayers, OfLayersThatAreAlikeLoseNothing) {
  TwoLayers layers(minicache(0.01));
  const auto rows = rows_for(layers, 9);
  layers.write(rows, 3 * rows, 0);
  EXPECT_EQ(layers.lower().exact_rows(), 0);
  EXPECT_TRUE(close(layers.keys(0), rows, kHalfDigits));
  EXPECT_TRUE(close(layers.keys(1), 3 * rows, 3 * kHalfDigits));
}

TEST(MergedLayers, AtTheEndsTakeTheDirectionOfOneLayer) {
  for (const double t : {0.0, 1.0}) {
    TwoLayers layers(minicache(1, t));
    const auto lower = rows_for(layers, 9, 1), upper = rows_for(layers, 9, 2);
    layers.write(lower, upper, 0);
    const auto& kept = t == 0 ? lower : upper;
    const auto& other = t == 0 ? upper : lower;
    EXPECT_TRUE(close(layers.keys(t == 0 ? 0 : 1), kept, 4 * kHalfDigits));
    const auto expected = kept / kept.norm(2, 3, true) * other.norm(2, 3, true);
    EXPECT_TRUE(close(layers.keys(t == 0 ? 1 : 0), expected, 4 * kHalfDigits));
  }
}

TEST(MergedLayers, KeepLengthsAndLieOnTheArc) {
  TwoLayers layers(minicache(1, 0.25));
  const auto lower = rows_for(layers, 9, 1), upper = rows_for(layers, 9, 2);
  layers.write(lower, upper, 0);
  EXPECT_TRUE(close(layers.keys(0).norm(2, 3), lower.norm(2, 3), 4 * kHalfDigits));
  EXPECT_TRUE(close(layers.keys(1).norm(2, 3), upper.norm(2, 3), 4 * kHalfDigits));
  const auto angle = [](const at::Tensor& x, const at::Tensor& y) {
    return torch::acos(at::cosine_similarity(x, y, 3));
  };
  const auto whole = angle(lower, upper);
  EXPECT_TRUE(close(angle(layers.keys(0), lower), 0.25 * whole, 1e-3));
  EXPECT_TRUE(close(angle(layers.keys(0), upper), 0.75 * whole, 1e-3));
}

TEST(MergedLayers, OfOppositeAndOfEmptyRowsStayFinite) {
  TwoLayers layers(minicache(1));
  auto rows = rows_for(layers, 4);
  rows.select(2, 1).zero_();
  layers.write(rows, -rows, 0);
  EXPECT_TRUE(torch::isfinite(layers.keys(0)).all().item<bool>());
  EXPECT_TRUE(torch::isfinite(layers.keys(1)).all().item<bool>());
}

TEST(MergedLayers, KeepWhatDiffersExactlyWhateverTheStepsWere) {
  const auto text = [](TwoLayers& layers) {
    const auto lower = rows_for(layers, 12, 1);
    auto upper = lower + 0.1 * rows_for(layers, 12, 2);
    upper.select(2, 5).neg_();
    return std::pair(lower, upper);
  };
  TwoLayers once(minicache(0.2)), stepwise(minicache(0.2));
  const auto [lower, upper] = text(once);
  once.write(lower, upper, 0);
  stepwise.write(lower.narrow(2, 0, 7), upper.narrow(2, 0, 7), 0);
  for (int64_t i = 7; i < 12; ++i) stepwise.write(lower.narrow(2, i, 1), upper.narrow(2, i, 1), i);
  EXPECT_TRUE(once.keys(0).equal(stepwise.keys(0)));
  EXPECT_TRUE(once.keys(1).equal(stepwise.keys(1)));
  EXPECT_EQ(once.lower().exact_rows(), once.heads());
  EXPECT_TRUE(once.keys(0).select(2, 5).equal(lower.select(2, 5)));
  EXPECT_TRUE(once.keys(1).select(2, 5).equal(upper.select(2, 5)));
}

TEST(MergedLayers, CountTheBytesOfBothKindsOfRows) {
  for (const char* codec : {"model", "int4"}) {
    auto config = minicache(0.2);
    config.codec_k = config.codec_v = codec;
    TwoLayers layers(config);
    const auto lower = rows_for(layers, 12, 1);
    auto upper = lower + 0.1 * rows_for(layers, 12, 2);
    upper.select(2, 5).neg_();
    layers.write(lower, upper, 0);
    const ByteLedger ledger = layers.lower().ledger();
    const int64_t row = layers.plan().row_bytes() - 4, lengths = 2 * 2 * 2;
    EXPECT_EQ(ledger.resident(), layers.lower().merged_rows() * (row + lengths + 4) +
                                     layers.lower().exact_rows() * (2 * row + 4));
    EXPECT_EQ(ledger.reserved, ledger.resident());
  }
}

/// Architectures with two neighbouring layers of keys and values of their own.
class MiniCache : public ::testing::TestWithParam<LayerCase> {
 protected:
  KvCache cache(const CacheConfig& config, int64_t batch = 1) const {
    return CachePlan(config, model_->config(), at::kFloat, kTokens)
        .make(*model_, {.batch = batch, .growth_rows = 1});
  }
  Decoder model_ = managed_model(GetParam().config);
};

std::vector<LayerCase> with_pairs() {
  auto out = managed_architectures();
  std::erase_if(out, [](const LayerCase& item) {
    return item.name == "lckv" || item.name == "latent" || item.name == "gta" ||
           item.name == "local_global_2_1";
  });
  return out;
}

INSTANTIATE_TEST_SUITE_P(Architectures,
                         MiniCache,
                         ::testing::ValuesIn(with_pairs()),
                         [](const auto& item) {
                           std::string name = item.param.name;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST_P(MiniCache, ThatMergesNothingIsTheFullCache) {
  const auto tokens = random_tokens(2, kTokens);
  auto full = model_->make_cache({.batch = 2});
  auto merged = cache(minicache(0), 2);
  EXPECT_TRUE(close(logits_through(model_, tokens, merged, kPrompt),
                    logits_through(model_, tokens, full, kPrompt), 5e-6));
}

TEST_P(MiniCache, HoldsFewerBytesThanItsBoundAndChangesLogits) {
  const auto tokens = random_tokens(1, kTokens);
  const CachePlan plan(minicache(1), model_->config(), at::kFloat, kTokens);
  auto full = model_->make_cache({.batch = 1});
  auto merged = plan.make(*model_, {.batch = 1, .growth_rows = 1});
  EXPECT_FALSE(close(logits_through(model_, tokens, merged, kPrompt),
                     logits_through(model_, tokens, full, kPrompt), 1e-3));
  EXPECT_LT(merged.bytes_used(), plan.bytes(kTokens));
  EXPECT_LT(merged.bytes_used(), full.bytes_used());
  EXPECT_EQ(merged.ledger().resident(), merged.bytes_used());
}

TEST_P(MiniCache, SequencesDoNotMixAndForksGoOnByThemselves) {
  const CachePlan plan(minicache(0.4), model_->config(), at::kFloat, kTokens);
  EXPECT_LT(mixing_of_unequal_lengths(model_, plan, random_tokens(2, kTokens)), 1e-3);
  EXPECT_TRUE(forks_apart(model_, random_tokens(1, 30), plan));
}

TEST(MiniCacheConfig, RefusesWhatItCannotPair) {
  const auto plan = [](const CacheConfig& config, const std::string& model) {
    const auto all = managed_architectures();
    const auto found = std::ranges::find(all, model, &LayerCase::name);
    return CachePlan(config, found->config, at::kFloat, kTokens);
  };
  expect_error([&] { plan(minicache(0.1), "lckv"); }, ExitCode::kConfig, "read ahead");
  expect_error([&] { plan(minicache(0.1), "latent"); }, ExitCode::kConfig, "no two neighbouring");
  const auto fused = pattern("fusedkv-lite").config;
  expect_error([&] { CachePlan(minicache(0.1), fused, at::kFloat, kTokens); }, ExitCode::kConfig,
               "no two neighbouring");
  auto config = minicache(0.1);
  config.retention = "h2o";
  config.budget_tokens = 20;
  expect_error([&] { plan(config, "gqa"); }, ExitCode::kConfig, "other tokens in each layer");
}

}  // namespace
}  // namespace kvsmith
