// What single policies do, and the figures they go by.
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "cache/managed_rows.h"
#include "cache/noise.h"
#include "cache/value_merging.h"
#include "ops/layers.h"
#include "tests/cache/managed_cases.h"
#include "tests/support/close.h"

namespace kvsmith {
namespace {

constexpr int64_t kTokens = 40;

/// Kept sets of layer 0, head 0 after every token of a text.
std::vector<std::set<int64_t>> kept_sets(const CacheConfig& config) {
  Decoder model = managed_model(tiny_model());
  const CachePlan plan(config, model->config(), at::kFloat, kTokens);
  auto cache = plan.make(*model, {.batch = 1});
  const auto tokens = random_tokens(1, kTokens);
  const torch::NoGradGuard no_grad;
  std::vector<std::set<int64_t>> out;
  for (int64_t t = 0; t < kTokens; ++t) {
    model->step(tokens.narrow(1, t, 1), Positions::range(t, 1), cache);
    const auto kept = dynamic_cast<ManagedRows&>(cache.of(0)).kept()[0][0].contiguous();
    out.emplace_back(kept.const_data_ptr<int64_t>(), kept.const_data_ptr<int64_t>() + kept.numel());
  }
  return out;
}

TEST(Streaming, KeepsTheFirstAndTheNewestTokens) {
  const auto sets = kept_sets(small_budget("streaming"));
  for (int64_t t = 0; t < kTokens; ++t) {
    std::set<int64_t> expected;
    for (int64_t p = 0; p <= t; ++p)
      if (p < 2 || p > t - 10) expected.insert(p);
    EXPECT_EQ(sets[static_cast<size_t>(t)], expected);
  }
}

TEST(Random, DependsOnTheSeedOnly) {
  auto config = small_budget("random");
  const auto sets = kept_sets(config);
  EXPECT_EQ(kept_sets(config), sets);
  config.seed = 1;
  EXPECT_NE(kept_sets(config), sets);
}

TEST(Keyformer, WithOneTemperatureForAllDrawsAlikeAndWithALargeOneForgetsScores) {
  auto config = small_budget("keyformer");
  config.tau_init = config.tau_end = 0.1;
  const auto sets = kept_sets(config);
  EXPECT_EQ(kept_sets(config), sets);
  EXPECT_NE(kept_sets(small_budget("h2o")), sets);
  config.seed = 1;
  EXPECT_NE(kept_sets(config), sets);
  // every row gets 1 / rows from each query: the oldest have most
  config.tau_init = config.tau_end = 1e6;
  const auto oldest = kept_sets(config).back();
  for (int64_t p = 0; p < 8; ++p) EXPECT_TRUE(oldest.contains(p)) << p;
}

TEST(Noise, FollowsTheGumbelMaxLaw) {
  const auto logits = torch::tensor({1.0F, 0.0F, -1.0F, 2.0F});
  constexpr int64_t kDraws = 100'000;
  const auto noise = gumbel_of(
      mixed(head_keys(7, "test", 2, 1), torch::arange(kDraws).unsqueeze(1)), torch::arange(4));
  const auto counts = torch::bincount((logits + noise).argmax(1), {}, 4).to(torch::kFloat);
  const auto expected = torch::softmax(logits, 0) * kDraws;
  const auto chi_square = ((counts - expected).square() / expected).sum().item<double>();
  EXPECT_LT(chi_square, 16.3);  // 3 degrees of freedom, p = 0.001
}

/// Four rows from the one that stays longest to the one that goes first, after a step of three
/// queries.
std::vector<int64_t> from_best_to_worst(const std::string& retention) {
  CacheConfig config;
  config.observation_window = 2;
  config.pooling_kernel = 1;
  const auto policy = retention_kind(retention).make(config, {});
  const auto rows = torch::arange(4).view({1, 1, 4});
  const auto keys =
      torch::tensor({1.0F, 0.0F, 2.0F, 0.2F, -0.3F, 0.06F, 0.0F, 3.0F}).view({1, 1, 4, 2});
  auto figures = policy->initial(keys);
  if (policy->watches()) {
    const auto weights = torch::tensor({{0.80F, 0.20F, 0.00F, 0.00F},
                                        {0.05F, 0.10F, 0.85F, 0.00F},
                                        {0.10F, 0.20F, 0.30F, 0.40F}})
                             .view({1, 1, 1, 3, 4});
    auto tally = torch::zeros({1, 1, 4, 1});
    policy->observe({.logits = weights.log(),
                     .weights = weights,
                     .q = {},
                     .queries = torch::arange(1, 4).unsqueeze(0),
                     .last = torch::tensor({3}),
                     .rows = rows},
                    tally);
    figures = policy->merged(torch::zeros_like(tally), tally);
  }
  const auto worth =
      policy->worth({.at = rows, .figures = figures, .keys = [&] { return keys; }}).flatten();
  const auto order = torch::argsort(worth, int64_t{0}, /*descending=*/true);
  return {order.const_data_ptr<int64_t>(), order.const_data_ptr<int64_t>() + order.numel()};
}

TEST(Worth, IsHighestOfTheRowsThatAPolicyIsFor) {
  const std::vector<std::pair<std::string, std::vector<int64_t>>> orders = {
      {"h2o", {2, 0, 1, 3}},      // most attention from all
      {"tova", {3, 2, 1, 0}},     // most from the last
      {"snapkv", {2, 3, 1, 0}},   // most from the last two
      {"knorm", {2, 0, 1, 3}},    // the shortest keys
      {"keydiff", {2, 0, 1, 3}},  // those that point elsewhere
  };
  for (const auto& [retention, order] : orders)
    EXPECT_EQ(from_best_to_worst(retention), order) << retention;
}

TEST(Observation, OfAllQueriesSumsToTheirNumber) {
  // every query gives away one; what is evicted takes its share along
  const auto policy = retention_kind("h2o").make(small_budget("h2o"), {0, 2, 2});
  torch::manual_seed(2);
  const auto weights = torch::softmax(torch::randn({1, 2, 2, 6, 9}), -1);
  auto tally = torch::zeros({1, 2, 9, 1});
  policy->observe({.logits = weights.log(),
                   .weights = weights,
                   .q = {},
                   .queries = torch::arange(6).unsqueeze(0),
                   .last = torch::tensor({5}),
                   .rows = torch::arange(9).view({1, 1, 9})},
                  tally);
  EXPECT_TRUE(close(tally.sum({2, 3}), torch::full({1, 2}, 6.0), 1e-5));
}

TEST(Expected, OfQueriesThatAreAllAlikeIsTheWeightThatTheNextOneGives) {
  constexpr int64_t kWidth = 8, kRows = 6;
  constexpr double kTheta = 100, kScale = 0.5;
  CacheConfig config;
  config.future_tokens = 1;
  torch::manual_seed(4);
  const auto query = torch::randn({1, 1, 1, kWidth}), keys = torch::randn({1, 1, kRows, kWidth});
  const auto at = torch::arange(kRows).unsqueeze(0);
  const auto q = rotate(query.expand({1, 1, kRows, kWidth}), Positions::range(0, kRows), kTheta);
  const auto policy =
      retention_kind("expected")
          .make(config, {.layer = 0, .heads = 1, .group = 1, .readers = 1, .rope_theta = kTheta});
  policy->observe({.logits = {},
                   .weights = {},
                   .q = q.unsqueeze(2),
                   .scale = kScale,
                   .queries = at,
                   .last = at.select(1, kRows - 1),
                   .rows = at.unsqueeze(1)},
                  {});
  EXPECT_GT(policy->state_bytes(), 0);
  const auto worth =
      policy->worth({.at = at.unsqueeze(1), .figures = {}, .keys = [&] { return keys; }});
  const auto next = rotate(query, Positions::range(kRows, 1), kTheta);
  EXPECT_TRUE(close(worth, torch::softmax((next * keys).sum(3) * kScale, 2), 1e-5));
  policy->end_step();
  EXPECT_EQ(policy->state_bytes(), 0);
}

TEST(Expected, IsTheMeanAndTheSpreadOfTurnedQueries) {
  constexpr int64_t kWidth = 4, kRows = 5, kGroup = 2, kAhead = 7;
  for (const double theta : {50.0, 0.0}) {
    CacheConfig config;
    config.future_tokens = kAhead;
    torch::manual_seed(6);
    const auto queries = torch::randn({1, kGroup, kRows, kWidth});
    const auto keys = torch::randn({1, 1, kRows, kWidth});
    const auto at = torch::arange(kRows).unsqueeze(0);
    const auto q = rotate(queries, Positions::range(0, kRows), theta);
    const auto policy =
        retention_kind("expected")
            .make(config,
                  {.layer = 0, .heads = 1, .group = kGroup, .readers = 1, .rope_theta = theta});
    policy->observe({.logits = {},
                     .weights = {},
                     .q = q.unsqueeze(1),
                     .scale = 1,
                     .queries = at,
                     .last = at.select(1, kRows - 1),
                     .rows = at.unsqueeze(1)},
                    {});
    // the mean turn, from what it does to each unit vector
    const auto unit = torch::eye(kWidth).view({1, 1, kWidth, kWidth});
    auto turn = torch::zeros({kWidth, kWidth});
    for (int64_t i = 0; i < kAhead; ++i)
      for (int64_t column = 0; column < kWidth; ++column)
        turn.select(1, column) +=
            rotate(unit.narrow(2, column, 1), Positions::range(kRows + i, 1), theta).flatten() /
            kAhead;
    auto expected = torch::zeros({1, 1, kRows});
    const auto k = keys[0][0];
    for (int64_t head = 0; head < kGroup; ++head) {
      const auto of_head = queries[0][head];
      const auto mean = of_head.mean(0), centred = of_head - mean;
      const auto spread = torch::matmul(centred.t(), centred) / kRows;
      const auto ahead = torch::matmul(torch::matmul(turn, spread), turn.t());
      const auto logits =
          torch::matmul(k, torch::matmul(turn, mean)) + (torch::matmul(k, ahead) * k).sum(1) / 2;
      expected[0][0] += torch::softmax(logits, 0) / kGroup;
    }
    const auto worth =
        policy->worth({.at = at.unsqueeze(1), .figures = {}, .keys = [&] { return keys; }});
    EXPECT_TRUE(close(worth, expected, 1e-5)) << theta;
  }
}

TEST(Cam, LeavesAnEqualPartToEachOfTheNextRowsThatStay) {
  // positions in the order of slots; the row at 3 goes, and 5 and 6 follow it
  const auto at = torch::tensor({6, 0, 3, 5, 9, -1}).view({1, 1, 6});
  const auto goes = at.eq(3);
  const auto scores = torch::ones({1, 1, 6});
  const auto values = torch::arange(12, torch::kFloat).view({1, 1, 6, 2});
  const auto keys = head_keys(1, "test", 0, 1);
  const auto gone = values.narrow(2, 2, 1);
  const auto more = left_to_others(at, scores, goes, gone, keys, 2);
  auto expected = torch::zeros({1, 1, 6, 2});
  for (const int64_t slot : {0, 3}) expected[0][0][slot] = values[0][0][2] / 2;
  EXPECT_TRUE(more.equal(expected));
  // without attention nothing is left, with less than the others now and then
  EXPECT_FALSE(
      left_to_others(at, 1 - goes.to(torch::kFloat), goes, gone, keys, 2).any().item<bool>());
  const auto lower = 1 - 0.7 * goes.to(torch::kFloat);
  int64_t left = 0;
  constexpr int64_t kDraws = 400;
  for (int64_t seed = 0; seed < kDraws; ++seed)
    left +=
        left_to_others(at, lower, goes, gone, head_keys(seed, "test", 0, 1), 2).any().item<bool>();
  EXPECT_NEAR(static_cast<double>(left) / kDraws, 0.3, 0.07);
}

TEST(Cam, LeavesThePartsOfSeveralRowsAtOnce) {
  const auto at = torch::arange(6).view({1, 1, 6});
  const auto goes = at.eq(1).logical_or(at.eq(2)).logical_or(at.eq(5));
  const auto gone = torch::ones({1, 1, 3, 1});
  const auto more =
      left_to_others(at, torch::ones({1, 1, 6}), goes, gone, head_keys(1, "test", 0, 1), 2);
  // 1 and 2 go to 3 and 4; nothing follows 5
  EXPECT_TRUE(more.flatten().equal(torch::tensor({0.0F, 0.0F, 0.0F, 1.0F, 1.0F, 0.0F})));
}

TEST(Observation, OfAGroupIsReducedAsAsked) {
  const auto scores = torch::tensor({1.0F, 3.0F, 2.0F, 10.0F}).view({1, 1, 4, 1});
  EXPECT_EQ(reduced(scores, "mean").item<float>(), 4);
  EXPECT_EQ(reduced(scores, "max").item<float>(), 10);
  EXPECT_EQ(reduced(scores, "sum").item<float>(), 16);
}

}  // namespace
}  // namespace kvsmith
