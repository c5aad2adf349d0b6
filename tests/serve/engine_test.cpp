#include "serve/engine.h"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

#include "cache/cache_options.h"
#include "inference/generate.h"
#include "tests/serve/small_engine.h"
#include "tests/support/expect_error.h"
#include "tests/support/layer_cases.h"

namespace kvsmith {
namespace {

using std::chrono::milliseconds;

/// What generate() says alone.
std::vector<int32_t> alone(LoadedModel& model,
                           const TextRequest& request,
                           const std::optional<CacheConfig>& cache = {}) {
  GenerateOptions options;
  options.max_new_tokens = request.max_tokens;
  options.sampling = request.sampling;
  options.stop = request.stop;
  options.cache = cache;
  return generate(model, {request.prompt}, options).at(0).tokens;
}

struct EngineCase {
  std::string name, cache;
  std::function<void(ModelConfig&)> change = {};
};

class EngineOfEvery : public ::testing::TestWithParam<EngineCase> {};

TEST_P(EngineOfEvery, TextsThatComeAndGoAreWhatEachIsAlone) {
  auto model = small_loaded(GetParam().change);
  const auto cache = cache_config_of(words_of(GetParam().cache));
  std::vector<TextRequest> requests;
  for (int32_t i = 0; i < 6; ++i) requests.push_back(greedy(some_prompt(20 + 7 * i, i), 4 + 5 * i));
  requests[2].sampling = {.temperature = 1.5, .top_k = 40, .seed = 9};
  std::vector<std::vector<int32_t>> expected;
  for (const auto& request : requests) expected.push_back(alone(model, request, cache));
  // chunks of 8 tokens, and no more than three at a time: texts join while others go on
  Engine engine(model, {.cache = cache, .max_sequences = 3, .prefill_chunk = 8});
  std::vector<std::shared_ptr<Reply>> replies;
  for (const auto& request : requests) replies.push_back(engine.submit(request));
  for (size_t i = 0; i < replies.size(); ++i) {
    const auto outcome = outcome_of(*replies[i]);
    EXPECT_EQ(outcome.ids(), expected[i]) << i << ": " << outcome.failure.message;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    EngineOfEvery,
    ::testing::Values(
        EngineCase{"full", "full"},
        EngineCase{"lckv", "full", [](auto& c) { c.num_hidden_layers = 6, c.pattern = "lckv"; }},
        EngineCase{"gated_delta", "full", [](auto& c) { c.layer_types = {"gated_delta", "full"}; }},
        EngineCase{"bounded", "full",
                   [](auto& c) {
                     c.layer_types = {"bounded"};
                     c.sliding_window = 5;
                   }},
        EngineCase{"sliding", "full",
                   [](auto& c) {
                     c.layer_types = {"sliding", "full"};
                     c.sliding_window = 5;
                   }},
        EngineCase{"h2o", "h2o budget_tokens=16 protect_sinks=2 protect_recent=4"},
        EngineCase{"snapkv", "snapkv budget_tokens=16 observation_window=5 protect_sinks=2"},
        EngineCase{"kivi2", "kivi2 q_group_size=8 residual_length=8"},
        EngineCase{"int8", "int8"}),
    [](const auto& param) { return param.param.name; });

TEST(Engine, BytesNeverExceedTheBudgetUnderRandomLoad) {
  for (const char* cache : {"full", "h2o", "kivi2", "int8"}) {
    SCOPED_TRACE(cache);
    auto model = small_loaded();
    const auto config = cache_config_of(
        words_of(std::string(cache) + " q_group_size=8 residual_length=8" +
                 (std::string(cache) == "h2o" ? " budget_tokens=30 protect_sinks=2" : "")));
    const CachePlan plan(config, model.model->config(), at::kFloat, 256);
    const int64_t budget = most_bytes(plan, 280, 1);
    Engine engine(
        model, {.cache = config, .cache_budget = budget, .max_sequences = 8, .prefill_chunk = 16});
    std::mt19937 random(3);
    std::vector<std::shared_ptr<Reply>> replies;
    for (int32_t i = 0; i < 30; ++i) {
      const auto size = static_cast<int64_t>(1 + random() % 120);
      const auto seed = static_cast<int32_t>(random() % 4);  // some begin alike
      replies.push_back(engine.submit(greedy(some_prompt(size, seed), 1 + random() % 40)));
      if (random() % 5 == 0) replies[random() % replies.size()]->cancel();
      if (random() % 4 != 0) continue;
      EXPECT_NE(outcome_of(*replies.back()).finish(), Finish::kFailed);
      replies.pop_back();
    }
    for (auto& reply : replies) EXPECT_NE(outcome_of(*reply).finish(), Finish::kFailed);
    ASSERT_TRUE(eventually([&] {
      const auto now = engine.metrics().gauges();
      return now.running == 0 && now.queued == 0;
    }));
    EXPECT_GT(engine.metrics().peak_cache_bytes(), budget / 4);
    EXPECT_LE(engine.metrics().peak_cache_bytes(), budget);
    // what is still there is of prompts that are kept
    EXPECT_EQ(engine.metrics().gauges().cache_bytes, engine.metrics().gauges().kept_bytes);
  }
}

TEST(Engine, WhatCanNeverFitIsRefusedWithTheNumbers) {
  auto model = small_loaded();
  Engine engine(model, {.cache_budget = bytes_of_tokens(model, 50)});
  // the last token is never fed in
  EXPECT_EQ(outcome_of(*engine.submit(greedy(some_prompt(41), 10))).finish(), Finish::kLength);
  const auto refused = outcome_of(*engine.submit(greedy(some_prompt(41), 11)));
  EXPECT_EQ(refused.finish(), Finish::kRefused);
  EXPECT_EQ(refused.failure.status, 400);
  for (const int64_t tokens : {50, 51})
    EXPECT_NE(refused.failure.message.find(std::to_string(bytes_of_tokens(model, tokens))),
              std::string::npos)
        << refused.failure.message;
}

TEST(Engine, ATextThatTakesWhatFitsEndsWhereTheBudgetDoes) {
  auto model = small_loaded();
  Engine engine(model, {.cache_budget = bytes_of_tokens(model, 50)});
  auto request = greedy(some_prompt(41), 200);
  request.takes_what_fits = true;
  EXPECT_EQ(outcome_of(*engine.submit(request)).ids().size(), 10);
  request.prompt = some_prompt(51);
  EXPECT_EQ(outcome_of(*engine.submit(request)).failure.code, "cache_budget_exceeded");
}

TEST(Engine, RefusesWhatMakesNoSense) {
  auto model = small_loaded();
  Engine engine(model, {});
  const auto expect_refused = [&](const TextRequest& request, const std::string& part) {
    const auto outcome = outcome_of(*engine.submit(request));
    EXPECT_EQ(outcome.failure.status, 400);
    EXPECT_NE(outcome.failure.message.find(part), std::string::npos) << outcome.failure.message;
  };
  expect_refused(greedy({}, 4), "no tokens");
  expect_refused(greedy({5, 600}, 4), "token 600 in a vocabulary of 600");
  expect_refused(greedy({5}, 0), "0 new tokens");
  expect_refused(greedy(some_prompt(200), 57), "200 prompt tokens and 57 new ones");
  auto hot = greedy({5}, 4);
  hot.sampling.temperature = -1;
  expect_refused(hot, "temperature -1");
  model.tokenizer.reset();
  expect_error([&] { Engine(model, {}); }, ExitCode::kUsage, "no tokenizer");
}

TEST(Engine, FirstComeFirstServed) {
  auto model = small_loaded();
  // room for one large text, or for one small one beside half of a large one
  Engine engine(model, {.cache_budget = bytes_of_tokens(model, 120)});
  const auto first = engine.submit(greedy(some_prompt(40, 1), 60));
  const auto large = engine.submit(greedy(some_prompt(40, 2), 60));
  const auto small = engine.submit(greedy(some_prompt(5, 3), 2));
  // the small one would fit beside the first, but may not pass the large one
  EXPECT_EQ(outcome_of(*first).finish(), Finish::kLength);
  EXPECT_EQ(outcome_of(*small).finish(), Finish::kLength);
  EXPECT_TRUE(large->next(milliseconds(0)));
  EXPECT_EQ(outcome_of(*large).finish(), Finish::kLength);
}

TextRequest of_client(const std::string& client, int32_t seed) {
  auto out = greedy(some_prompt(10, seed), 20);
  out.client = client;
  return out;
}

TEST(Engine, AClientWithManyTextsDoesNotStarveAnother) {
  auto model = small_loaded();
  Engine engine(model, {.max_sequences = 1});
  std::vector<std::shared_ptr<Reply>> many;
  for (int32_t i = 0; i < 20; ++i) many.push_back(engine.submit(of_client("many", i)));
  const auto one = engine.submit(of_client("one", 30));
  EXPECT_EQ(outcome_of(*one).finish(), Finish::kLength);
  // its turn came after at most what ran and the next of the other client
  EXPECT_FALSE(many[10]->next(milliseconds(0)));
  for (const auto& reply : many) EXPECT_EQ(outcome_of(*reply).finish(), Finish::kLength);
}

TEST(Engine, AFullQueueHasRoomForAClientWithFewerTexts) {
  auto model = small_loaded();
  Engine engine(model, {.max_sequences = 1, .max_queued = 4});
  const auto running = engine.submit(greedy(some_prompt(10), 240));
  ASSERT_TRUE(running->next(std::chrono::seconds(30)));
  std::vector<std::shared_ptr<Reply>> many;
  for (int32_t i = 0; i < 5; ++i) many.push_back(engine.submit(of_client("many", i)));
  EXPECT_EQ(outcome_of(*many[4]).failure.status, 429);
  const auto one = engine.submit(of_client("one", 30));
  EXPECT_EQ(outcome_of(*many[3]).failure.status, 429);
  running->cancel();
  EXPECT_EQ(outcome_of(*one).finish(), Finish::kLength);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(outcome_of(*many[i]).finish(), Finish::kLength);
}

TEST(Engine, ATextWhoseClientLeavesEndsAndFreesItsBytes) {
  auto model = small_loaded();
  Engine engine(model, {.cache_budget = bytes_of_tokens(model, 250)});
  const auto left = engine.submit(greedy(some_prompt(10), 240));
  const auto waiting = engine.submit(greedy(some_prompt(30, 2), 200));
  ASSERT_TRUE(left->next(std::chrono::seconds(30)));
  left->cancel();
  EXPECT_EQ(outcome_of(*left).finish(), Finish::kCancelled);
  EXPECT_TRUE(waiting->next(std::chrono::seconds(30)));
  waiting->cancel();
  EXPECT_TRUE(eventually([&] { return engine.metrics().gauges().running == 0; }));
}

TEST(Engine, APromptThatBeginsLikeAnEarlierTextReusesItsRows) {
  for (const bool has_window : {false, true}) {
    auto model = small_loaded([&](ModelConfig& config) {
      if (!has_window) return;
      config.layer_types = {"sliding"};
      config.sliding_window = 8;
    });
    auto prompt = some_prompt(40);
    std::vector<TextRequest> requests = {greedy(prompt, 10)};
    prompt.resize(30);
    prompt.push_back(7);
    requests.push_back(greedy(prompt, 10));  // like the first 30 tokens
    auto continued = requests[0].prompt;
    for (const int32_t id : alone(model, requests[0])) continued.push_back(id);
    continued.push_back(8);
    requests.push_back(greedy(continued, 10));  // a next turn
    std::vector<int64_t> reused;
    Engine engine(model, {});
    for (const auto& request : requests) {
      const auto outcome = outcome_of(*engine.submit(request));
      EXPECT_EQ(outcome.ids(), alone(model, request));
      reused.push_back(outcome.answer.reused);
    }
    // a window cannot go back; the last token of a text has never been fed in
    EXPECT_EQ(reused, (std::vector<int64_t>{0, has_window ? 0 : 30, 49}));
    EXPECT_EQ(engine.metrics().prefix_hits(), has_window ? 1 : 2);
  }
}

TEST(Engine, MethodsThatDependOnStepsReuseNothing) {
  auto model = small_loaded();
  Engine engine(model, {.cache = cache_config_of({"int8"})});
  for (int i = 0; i < 2; ++i) outcome_of(*engine.submit(greedy(some_prompt(40), 4)));
  EXPECT_EQ(engine.metrics().prefix_hits(), 0);
  EXPECT_TRUE(eventually([&] { return engine.metrics().gauges().cache_bytes == 0; }));
}

TEST(Engine, NanEndsTheTextAndNoOther) {
  auto model = small_loaded([](ModelConfig& config) { config.tie_word_embeddings = false; });
  const auto healthy = greedy(some_prompt(20), 40);
  const auto expected = alone(model, healthy);
  constexpr int64_t kSick = 599;
  ASSERT_EQ(std::ranges::count(expected, kSick), 0);
  {
    const torch::NoGradGuard no_grad;
    named_parameters(*model.model)[0].second[kSick].fill_(NAN);  // the embedding of one token
  }
  Engine engine(model, {});
  const auto reply = engine.submit(healthy);
  ASSERT_TRUE(reply->next(std::chrono::seconds(30)));
  auto sick = some_prompt(5);
  sick.push_back(kSick);
  const auto failed = outcome_of(*engine.submit(greedy(sick, 4)));
  EXPECT_EQ(failed.finish(), Finish::kFailed);
  EXPECT_EQ(failed.failure.status, 500);
  EXPECT_EQ(failed.failure.code, "not_a_number");
  EXPECT_EQ(outcome_of(*reply).ids(), std::vector(expected.begin() + 1, expected.end()));
}

TEST(Engine, StoppingRefusesWhatWaitsAndLetsTheRestEnd) {
  auto model = small_loaded();
  Engine engine(model, {.max_sequences = 1});
  const auto running = engine.submit(greedy(some_prompt(10), 30));
  const auto waiting = engine.submit(greedy(some_prompt(10, 1), 30));
  ASSERT_TRUE(running->next(std::chrono::seconds(30)));
  engine.stop(std::chrono::seconds(30));
  EXPECT_EQ(outcome_of(*running).finish(), Finish::kLength);
  EXPECT_EQ(outcome_of(*waiting).failure.status, 503);
  EXPECT_EQ(outcome_of(*engine.submit(greedy(some_prompt(10), 3))).failure.status, 503);
}

TEST(Engine, WithoutGraceWhatRunsEndsToo) {
  auto model = small_loaded();
  Engine engine(model, {});
  const auto running = engine.submit(greedy(some_prompt(10), 240));
  ASSERT_TRUE(running->next(std::chrono::seconds(30)));
  engine.stop(milliseconds(0));
  EXPECT_EQ(outcome_of(*running).failure.status, 503);
}

TEST(Engine, ScoresOfAPromptAreTheLogLikelihoodsOfItsTokens) {
  auto model = small_loaded();
  auto request = greedy(some_prompt(90), 0);
  request.scores_prompt = true;
  request.alternatives = 2;
  const auto logprobs = torch::log_softmax(
      model.model->forward(torch::tensor(request.prompt, torch::kLong).unsqueeze(0))[0], 1);
  Engine engine(model, {.prefill_chunk = 25});
  const auto scores = outcome_of(*engine.submit(request)).answer.prompt;
  ASSERT_EQ(scores.size(), 90);
  EXPECT_FALSE(scores[0].logprob);
  for (int64_t i = 1; i < 90; ++i) {
    const auto& score = scores[static_cast<size_t>(i)];
    EXPECT_EQ(score.id, request.prompt[static_cast<size_t>(i)]);
    EXPECT_NEAR(*score.logprob, logprobs[i - 1][score.id].item<double>(), 1e-4);
    ASSERT_EQ(score.top.size(), 2);
    EXPECT_NEAR(score.top[0].second, logprobs[i - 1].max().item<double>(), 1e-4);
  }
}

}  // namespace
}  // namespace kvsmith
