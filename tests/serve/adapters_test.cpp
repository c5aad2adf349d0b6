// Several adapters of one model, answered by one engine.
#include <gtest/gtest.h>
#include <httplib.h>
#include <torch/types.h>

#include "cache/cache_options.h"
#include "inference/generate.h"
#include "models/low_rank.h"
#include "serve/http_server.h"
#include "tests/serve/small_engine.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

using Json = nlohmann::json;

/// small_loaded() with an adapter that was learned from noise.
LoadedModel adapted(const std::string& name, uint64_t seed) {
  LoadedModel out = small_loaded();
  out.name = name;
  LoraConfig config;
  config.rank = 3;
  config.targets = {"*_proj"};
  add_adapters(*out.model, config, seed);
  torch::manual_seed(seed);
  for (const auto& [parameter, value] : adapter_parameters(*out.model))
    value.data().normal_(0, 0.2);
  out.model->eval();
  return out;
}

class EngineWithAdapters : public ::testing::Test {
 protected:
  static std::vector<int32_t> alone(LoadedModel& model, const TextRequest& request) {
    GenerateOptions options;
    options.max_new_tokens = request.max_tokens;
    options.sampling.temperature = 0;
    return generate(model, {request.prompt}, options).at(0).tokens;
  }
  LoadedModel& model(size_t number) { return number == 0 ? base_ : adapters_[number - 1]; }

  LoadedModel base_ = small_loaded();
  std::vector<LoadedModel> adapters_ = {adapted("red", 1), adapted("blue", 2)};
};

TEST_F(EngineWithAdapters, TextsOfAllRunTogetherAndAreWhatEachIsAlone) {
  std::vector<TextRequest> requests;
  std::vector<std::vector<int32_t>> expected;
  for (int32_t i = 0; i < 7; ++i) {
    requests.push_back(greedy(some_prompt(20 + 3 * i, i / 3), 10 + i));
    requests.back().model = static_cast<size_t>(i) % 3;
    expected.push_back(alone(model(requests.back().model), requests.back()));
  }
  EXPECT_NE(expected[0], expected[1]);
  Engine engine(base_, {.prefill_chunk = 8}, adapters_);
  std::vector<std::shared_ptr<Reply>> replies;
  for (const auto& request : requests) replies.push_back(engine.submit(request));
  for (size_t i = 0; i < replies.size(); ++i)
    EXPECT_EQ(outcome_of(*replies[i]).ids(), expected[i]) << i;
}

TEST_F(EngineWithAdapters, NoneStartsFromTheRowsOfAnother) {
  Engine engine(base_, {}, adapters_);
  for (const size_t number : {0U, 1U, 2U, 1U}) {
    auto request = greedy(some_prompt(40), 6);
    request.model = number;
    EXPECT_EQ(outcome_of(*engine.submit(request)).ids(), alone(model(number), request)) << number;
  }
  EXPECT_EQ(engine.metrics().prefix_hits(), 1);
}

TEST_F(EngineWithAdapters, ClientsNameThem) {
  Engine engine(base_, {}, adapters_);
  HttpServer server(engine, {.port = 0, .model_name = "plain"});
  httplib::Client client("127.0.0.1", server.start());
  const auto ask = [&](const Json& body) {
    return client.Post("/v1/completions", body.dump(), "application/json");
  };
  for (size_t number = 0; number < 3; ++number) {
    const std::string name = number == 0 ? "plain" : model(number).name;
    const auto prompt = some_prompt(20);
    const auto got =
        ask({{"model", name}, {"prompt", prompt}, {"max_tokens", 6}, {"temperature", 0}});
    ASSERT_EQ(got->status, 200) << got->body;
    const auto body = Json::parse(got->body);
    EXPECT_EQ(body["model"], name);
    EXPECT_EQ(body["choices"][0]["text"],
              base_.tokenizer->decode(alone(model(number), greedy(prompt, 6))));
  }
  const auto unknown = ask({{"model", "green"}, {"prompt", "x"}});
  EXPECT_EQ(unknown->status, 404);
  const auto error = Json::parse(unknown->body)["error"];
  EXPECT_EQ(error["code"], "model_not_found");
  EXPECT_NE(error["message"].get<std::string>().find(R"("plain" or "red" or "blue")"),
            std::string::npos)
      << error;
  EXPECT_EQ(ask({{"model", 3}, {"prompt", "x"}})->status, 400);
  const auto list = Json::parse(client.Get("/v1/models")->body)["data"];
  ASSERT_EQ(list.size(), 3);
  EXPECT_EQ(list[0]["id"], "plain");
  EXPECT_FALSE(list[0].contains("parent"));
  EXPECT_EQ(list[2]["id"], "blue");
  EXPECT_EQ(list[2]["parent"], "plain");
  expect_error([&] { HttpServer(engine, {.model_name = "red"}); }, ExitCode::kUsage,
               "two models are named \"red\"");
}

TEST_F(EngineWithAdapters, OneWithoutATokenizerIsRefused) {
  adapters_[1].tokenizer.reset();
  expect_error([&] { Engine(base_, {}, adapters_); }, ExitCode::kUsage, "no tokenizer");
}

}  // namespace
}  // namespace kvsmith
