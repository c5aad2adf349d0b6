#include "serve/joint_step.h"

#include <map>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "cache/cache_options.h"
#include "cache/cache_plan.h"
#include "tests/support/layer_cases.h"

namespace kvsmith {
namespace {

/// A sequence that enters at one step and leaves at another.
struct Visit {
  int64_t prompt, enters, leaves;
};

/// At no time do two sequences stand at the same position, and none is there from the first step to
/// the last.
const std::vector<Visit> kVisits = {{17, 0, 9}, {5, 2, 14}, {11, 2, 6}, {23, 7, 14}};

Decoder model_of(const ModelConfig& config) {
  Decoder model(config);
  initialize(*model, 3);
  model->eval();
  return model;
}

std::vector<int64_t> prompt_of(size_t index) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < kVisits[index].prompt; ++i)
    out.push_back(3 + (static_cast<int64_t>(index) * 19 + i * 11) % 64);
  return out;
}

/// A sequence as it goes on greedily: its cache, and the logits of each new token.
struct Run {
  KvCache cache;
  int64_t position;
  std::vector<at::Tensor> logits;

  int64_t token() const { return logits.back().argmax().item<int64_t>(); }
};

Run entered(Decoder& model, const CachePlan& plan, size_t index) {
  const auto prompt = prompt_of(index);
  Run run{plan.make(*model, {.batch = 1}), kVisits[index].prompt, {}};
  const auto hidden = model->step(torch::tensor(prompt, torch::kLong).unsqueeze(0),
                                  Positions::range(0, run.position), run.cache);
  run.logits.push_back(model->logits(hidden.select(1, run.position - 1))[0]);
  return run;
}

std::vector<Run> alone(Decoder& model, const CachePlan& plan) {
  std::vector<Run> out;
  for (size_t i = 0; i < kVisits.size(); ++i) {
    out.push_back(entered(model, plan, i));
    Run& run = out.back();
    for (int64_t t = kVisits[i].enters; t < kVisits[i].leaves; ++t) {
      const auto hidden = model->step(torch::full({1, 1}, run.token(), torch::kLong),
                                      Positions::range(run.position++, 1), run.cache);
      run.logits.push_back(model->logits(hidden.select(1, 0))[0]);
    }
  }
  return out;
}

std::vector<Run> together(Decoder& model, const CachePlan& plan) {
  std::map<size_t, Run> runs;
  for (int64_t t = 0; t < 14; ++t) {
    std::vector<NextToken> next;
    std::vector<Run*> present;
    for (size_t i = 0; i < kVisits.size(); ++i) {
      if (kVisits[i].enters == t) runs.emplace(i, entered(model, plan, i));
      if (t < kVisits[i].enters || t >= kVisits[i].leaves) continue;
      Run& run = runs.at(i);
      next.push_back({&run.cache, run.token(), run.position++});
      present.push_back(&run);
    }
    const auto logits = model->logits(step_together(*model, next));
    for (size_t i = 0; i < present.size(); ++i)
      present[i]->logits.push_back(logits[static_cast<int64_t>(i)]);
  }
  std::vector<Run> out;
  for (auto& [index, run] : runs) out.push_back(std::move(run));
  return out;
}

void expect_same_as_alone(const ModelConfig& config, const CacheConfig& cache) {
  const torch::NoGradGuard no_grad;
  auto model = model_of(config);
  const CachePlan plan(cache, config, at::kFloat, 64);
  const auto expected = alone(model, plan);
  const auto got = together(model, plan);
  for (size_t i = 0; i < kVisits.size(); ++i) {
    ASSERT_EQ(got[i].logits.size(), expected[i].logits.size());
    for (size_t t = 0; t < got[i].logits.size(); ++t) {
      const auto &a = got[i].logits[t], &b = expected[i].logits[t];
      EXPECT_LT((a - b).abs().max().item<double>(), 1e-4) << "sequence " << i << ", step " << t;
      EXPECT_TRUE(a.argmax().equal(b.argmax())) << "sequence " << i << ", step " << t;
    }
    EXPECT_EQ(got[i].cache.ledger().resident(), expected[i].cache.ledger().resident());
  }
}

class JointStep : public ::testing::TestWithParam<LayerCase> {};

TEST_P(JointStep, EverySequenceGoesOnAsIfItWereAlone) {
  expect_same_as_alone(GetParam().config, {});
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         JointStep,
                         ::testing::ValuesIn(layer_cases()),
                         [](const auto& param) { return param.param.name; });

struct MethodCase {
  std::string name, words;
  bool is_general = true;  ///< takes layers that read ahead, and rows of one head
};

class JointMethods : public ::testing::TestWithParam<MethodCase> {};

TEST_P(JointMethods, EverySequenceGoesOnAsIfItWereAlone) {
  const auto cache = cache_config_of(words_of(GetParam().words));
  std::vector<LayerCase> cases = {option("gqa", [](auto&) {}), pattern("cla-2")};
  if (GetParam().is_general) {
    cases.push_back(pattern("lckv"));
    cases.push_back(option("latent", latent_sizes));
  }
  for (const auto& [name, config] : cases) {
    SCOPED_TRACE(name);
    expect_same_as_alone(config, cache);
  }
}

const std::string kBudget = " budget_tokens=12 protect_sinks=2 protect_recent=4";

INSTANTIATE_TEST_SUITE_P(
    Methods,
    JointMethods,
    ::testing::Values(MethodCase{"h2o", "h2o" + kBudget},
                      MethodCase{"h2o_before", "h2o evict=before" + kBudget, false},
                      MethodCase{"keyformer", "keyformer" + kBudget},
                      MethodCase{"snapkv", "snapkv observation_window=5" + kBudget},
                      MethodCase{"tova_in_cache", "tova positions=in_cache" + kBudget, false},
                      MethodCase{"streaming", "streaming" + kBudget},
                      MethodCase{"ada", "snapkv allocator=ada observation_window=5" + kBudget,
                                 false},
                      MethodCase{"leankv", "leankv q_group_size=8", false},
                      MethodCase{"kivi2", "kivi2 q_group_size=8 residual_length=8", false},
                      MethodCase{"int8", "int8 q_group_size=8"},
                      MethodCase{"int8_h2o", "int8 h2o q_group_size=8" + kBudget},
                      MethodCase{"minicache", "depth_merge=minicache merge_from=0", false}),
    [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace kvsmith
