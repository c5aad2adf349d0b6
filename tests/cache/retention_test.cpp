#include <set>

#include <gtest/gtest.h>

#include "cache/managed_rows.h"
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

}  // namespace
}  // namespace kvsmith
