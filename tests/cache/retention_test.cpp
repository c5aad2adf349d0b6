#include <set>

#include <gtest/gtest.h>

#include "cache/managed_rows.h"
#include "cache/noise.h"
#include "cache/value_merging.h"
#include "ops/layers.h"
#include "tests/cache/managed_cases.h"
#include "tests/support/close.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

constexpr int64_t kTokens = 40;

/// Every policy on every architecture: a new one is tested by being registered.
struct Pair {
  RetentionKind kind;
  LayerCase model;
  std::string setting = "";  ///< more, as key=value
};

void PrintTo(const Pair& pair, std::ostream* out) {
  *out << pair.kind.name << " on " << pair.model.name << " " << pair.setting;
}

std::vector<Pair> pairs() {
  std::vector<Pair> out;
  // layers whose queries meet something else than the rows that are kept
  const std::set<std::string> without_keys = {"latent", "gta", "k_eq_v"};
  for (const auto& kind : retention_kinds()) {
    for (const auto& model : managed_architectures()) {
      if ((kind.reads_queries || kind.merges_values) && without_keys.contains(model.name)) continue;
      if (kind.by_gates && layers_with_head_gates(KvGraph(model.config)).empty()) continue;
      out.push_back({kind, model});
      if (model.name != "gqa" && model.name != "cla-2") continue;
      if (!kind.by_gates) out.push_back({kind, model, "allocator=ada"});
      out.push_back({kind, model, kind.by_gates ? "store=dense" : "store=paged"});
      if (!kind.after_prompt_only) out.push_back({kind, model, "evict=before"});
    }
  }
  return out;
}

class Retention : public ::testing::TestWithParam<Pair> {
 protected:
  CacheConfig settings(int64_t budget = 12) const {
    auto config = small_budget(GetParam().kind.name, budget);
    if (GetParam().kind.by_gates) config.duo_gates = write_gates(*model_, folder_.path());
    const auto& setting = GetParam().setting;
    if (setting == "allocator=ada") config.allocator = "ada";
    if (setting == "store=paged") config.store = "paged";
    if (setting == "store=dense") config.store = "dense";
    if (setting == "evict=before") config.evict = "before";
    config.block_tokens = 4;
    return config;
  }
  CachePlan plan(int64_t budget = 12) const {
    return {settings(budget), model_->config(), at::kFloat, kTokens};
  }
  /// Bytes of rows that blocks have room for, and of tables.
  int64_t slack(const CachePlan& plan) const {
    int64_t sum = 0;
    for (int64_t layer = 0; layer < model_->graph().size(); ++layer) {
      const LayerPlan* of = plan.of(layer);
      if (of && of->is_paged) sum += 2 * of->facts.heads * (4 * of->row_bytes() + 10 * 16);
    }
    return sum;
  }
  /// Policies that evict after the prompt only are given one.
  int64_t prompt() const { return GetParam().kind.after_prompt_only ? 25 : 1; }

  TemporaryDirectory folder_;
  Decoder model_ = managed_model(GetParam().model.config);
};

INSTANTIATE_TEST_SUITE_P(Kinds, Retention, ::testing::ValuesIn(pairs()), [](const auto& pair) {
  std::string name = pair.param.kind.name + "_" + pair.param.model.name;
  if (!pair.param.setting.empty()) name += "_" + pair.param.setting;
  std::ranges::replace(name, '-', '_');
  std::ranges::replace(name, '=', '_');
  return name;
});

TEST_P(Retention, WithRoomForTheWholeTextIsTheFullCache) {
  const auto tokens = random_tokens(2, kTokens);
  auto full = model_->make_cache({.batch = 2});
  auto managed = plan(kTokens).make(*model_, {.batch = 2});
  EXPECT_TRUE(close(logits_through(model_, tokens, managed, prompt()),
                    logits_through(model_, tokens, full, prompt()), 5e-6));
}

TEST_P(Retention, EqualsOnePassInWhichEachTokenSeesWhatWasKept) {
  const auto tokens = random_tokens(2, kTokens);
  std::vector<std::shared_ptr<ReplayLog>> logs;
  auto managed = plan().make(*model_, {.batch = 2}, &logs);
  const auto streamed = logits_through(model_, tokens, managed, prompt());

  auto replay = model_->make_transient();
  for (size_t layer = 0; layer < logs.size(); ++layer)
    if (logs[layer])
      replay.replace(static_cast<int64_t>(layer),
                     std::make_unique<ReplayRows>(logs[layer]->seen()));
  const torch::NoGradGuard no_grad;
  const auto replayed = model_->logits(model_->step(tokens, Positions::range(0, kTokens), replay));
  // values that have been merged are not those of the text
  EXPECT_EQ(close(streamed, replayed, 1e-5), !GetParam().kind.merges_values);

  auto full = model_->make_cache({.batch = 2});
  EXPECT_FALSE(close(streamed, logits_through(model_, tokens, full, prompt()), 1e-3));
}

TEST_P(Retention, HoldsTheBytesOfTheFormulaInItsStorages) {
  const auto tokens = random_tokens(2, kTokens);
  const CachePlan plan = this->plan();
  for (const int64_t seq : {int64_t{26}, kTokens}) {
    auto cache = plan.make(*model_, {.batch = 2, .growth_rows = 1});
    logits_through(model_, tokens.narrow(1, 0, seq), cache, prompt());
    EXPECT_EQ(cache.bytes_used(), 2 * plan.bytes(seq, prompt()));
    const ByteLedger ledger = cache.ledger();
    EXPECT_EQ(ledger.resident(), cache.bytes_used());
    EXPECT_EQ(ledger.reserved, cache.bytes_reserved());
    EXPECT_GE(cache.bytes_reserved(), cache.bytes_used());
    if (GetParam().setting == "store=dense") continue;  // as long in all heads as in the fullest
    EXPECT_LT(cache.bytes_reserved(), 2 * plan.bytes(seq + 2, prompt() + 2) + 4096 + slack(plan));
  }
}

TEST_P(Retention, SequencesOfABatchDoNotMix) {
  const auto tokens = random_tokens(3, kTokens);
  auto together = plan().make(*model_, {.batch = 3});
  const auto logits = logits_through(model_, tokens, together, prompt());
  for (int64_t b = 0; b < 3; ++b) {
    auto alone = plan().make(*model_, {.batch = 1});
    EXPECT_TRUE(close(logits_through(model_, tokens.narrow(0, b, 1), alone, prompt()),
                      logits.narrow(0, b, 1), 1e-5));
  }
}

TEST_P(Retention, SequencesOfUnequalLengthsEqualEachAlone) {
  for (const bool stored : {true, false}) {
    auto config = settings();
    config.quantise_before_attend = stored;
    const CachePlan plan(config, model_->config(), at::kFloat, kTokens);
    const auto tokens = random_tokens(2, kTokens);
    const std::vector<int64_t> prompts = {25, 17};
    const auto at = [&](int64_t b, int64_t first, int64_t count) {
      return tokens.narrow(0, b, 1).narrow(1, first, count);
    };
    const torch::NoGradGuard no_grad;
    auto together = plan.make(*model_, {.batch = 2});
    auto padded = torch::zeros({2, 25}, torch::kLong);
    for (int64_t b = 0; b < 2; ++b)
      padded[b]
          .narrow(0, 0, prompts[static_cast<size_t>(b)])
          .copy_(at(b, 0, prompts[static_cast<size_t>(b)])[0]);
    model_->step(padded, Positions::ragged({{0, 25}, {0, 17}}), together);
    std::vector<at::Tensor> last;
    for (int64_t t = 0; t < 12; ++t) {
      const auto next = torch::cat({at(0, 25 + t, 1), at(1, 17 + t, 1)});
      const auto where = Positions::ragged({{25 + t, 1}, {17 + t, 1}});
      last.push_back(model_->logits(model_->step(next, where, together)));
    }
    for (int64_t b = 0; b < 2; ++b) {
      const int64_t prompt = prompts[static_cast<size_t>(b)];
      auto alone = plan.make(*model_, {.batch = 1});
      const auto expected = logits_through(model_, at(b, 0, prompt + 12), alone, prompt);
      EXPECT_TRUE(close(torch::cat(last, 1)[b], expected[0].narrow(0, prompt, 12), 1e-5));
    }
  }
}

TEST_P(Retention, WhatComesLaterChangesNothingBefore) {
  auto tokens = random_tokens(1, kTokens);
  auto first = plan().make(*model_, {.batch = 1}), second = plan().make(*model_, {.batch = 1});
  const auto before = logits_through(model_, tokens, first, prompt());
  tokens.narrow(1, 30, 10).copy_(random_tokens(1, 10, 77));
  const auto after = logits_through(model_, tokens, second, prompt());
  EXPECT_TRUE(before.narrow(1, 0, 30).equal(after.narrow(1, 0, 30)));
}

TEST_P(Retention, KeepsWhatIsProtectedAndNothingTwiceOrAgain) {
  const auto tokens = random_tokens(2, kTokens);
  const CachePlan plan = this->plan();
  auto cache = plan.make(*model_, {.batch = 2});
  const torch::NoGradGuard no_grad;
  std::map<std::tuple<int64_t, int64_t, int64_t>, std::set<int64_t>> before;
  for (int64_t first = 0; first < kTokens;) {
    const int64_t count = first == 0 ? prompt() : 1;
    model_->step(tokens.narrow(1, first, count), Positions::range(first, count), cache);
    first += count;
    for (int64_t layer = 0; layer < model_->graph().size(); ++layer) {
      const auto* managed = plan.of(layer) ? dynamic_cast<ManagedRows*>(&cache.of(layer)) : nullptr;
      if (!managed || plan.of(layer)->retention->name != GetParam().kind.name) continue;
      const auto kept = managed->kept();
      for (int64_t b = 0; b < kept.size(0); ++b) {
        for (int64_t head = 0; head < kept.size(1); ++head) {
          const auto slots = kept[b][head];
          const auto row = slots.masked_select(slots.ge(0));
          const auto* at = row.const_data_ptr<int64_t>();
          const std::set<int64_t> now(at, at + row.numel());
          EXPECT_EQ(static_cast<int64_t>(now.size()), row.numel());
          for (int64_t sink = 0; sink < std::min<int64_t>(2, first); ++sink)
            EXPECT_TRUE(now.contains(sink));
          for (int64_t recent = std::max<int64_t>(0, first - 4); recent < first; ++recent)
            EXPECT_TRUE(now.contains(recent));
          auto& old = before[{layer, b, head}];
          for (const int64_t position : now)
            EXPECT_TRUE(position >= first - count || old.contains(position));
          old = now;
        }
      }
    }
  }
}

TEST_P(Retention, AForkGoesOnAloneFromTheSamePoint) {
  const auto tokens = random_tokens(1, kTokens);
  auto cache = plan().make(*model_, {.batch = 1});
  logits_through(model_, tokens.narrow(1, 0, 30), cache, prompt());
  auto fork = cache.fork();
  const torch::NoGradGuard no_grad;
  const auto next = [&](KvCache& of, int64_t token, int64_t at) {
    return model_->logits(
        model_->step(torch::full({1, 1}, token, torch::kLong), Positions::range(at, 1), of));
  };
  const auto expected = next(cache, 9, 30);
  next(cache, 11, 31);
  EXPECT_TRUE(next(fork, 9, 30).equal(expected));
}

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

TEST(Observation, OfAllQueriesSumsToTheirNumber) {
  // every query gives away one; what is evicted takes its share along
  Decoder model = managed_model(tiny_model());
  const CachePlan plan(small_budget("h2o", kTokens), model->config(), at::kFloat, kTokens);
  const auto kind = retention_kind("h2o");
  const auto policy = kind.make(small_budget("h2o"), {0, 2, 2});
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
