#include "serve/http_server.h"

#include <algorithm>
#include <sstream>

#include <gtest/gtest.h>
#include <httplib.h>

#include "inference/chat.h"
#include "inference/generate.h"
#include "tests/serve/small_engine.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

using Json = nlohmann::json;

/// A server on a port of its own, with a small model.
class HttpServerTest : public ::testing::Test {
 protected:
  void start(HttpOptions http = {}, EngineOptions engine = {}) {
    engine_ = std::make_unique<Engine>(model_, engine);
    http.port = 0;
    server_ = std::make_unique<HttpServer>(*engine_, http);
    port_ = server_->start();
    client_ = std::make_unique<httplib::Client>("127.0.0.1", port_);
    client_->set_read_timeout(60, 0);
  }
  httplib::Result post(const std::string& path, const std::string& body) {
    return client_->Post(path, headers_, body, "application/json");
  }
  /// The answer to what has to succeed.
  Json asked(const std::string& path, const Json& body) {
    const auto result = post(path, body.dump());
    EXPECT_TRUE(result) << to_string(result.error());
    if (!result) return {};
    EXPECT_EQ(result->status, 200) << result->body;
    return Json::parse(result->body);
  }
  /// The error of what has to fail.
  Json refused(const std::string& body, int status, const std::string& path = "/v1/completions") {
    const auto result = post(path, body);
    EXPECT_TRUE(result) << to_string(result.error());
    if (!result) return {};
    EXPECT_EQ(result->status, status) << body << " -> " << result->body;
    return Json::parse(result->body).at("error");
  }
  /// The events of a stream, without the end.
  std::vector<Json> streamed(const std::string& path, const Json& body) {
    const auto result = post(path, body.dump());
    EXPECT_TRUE(result) << to_string(result.error());
    if (!result) return {};
    EXPECT_EQ(result->get_header_value("Content-Type"), "text/event-stream");
    std::vector<Json> out;
    std::istringstream lines(result->body);
    bool has_ended = false;
    for (std::string line; std::getline(lines, line);) {
      if (line.empty()) continue;
      EXPECT_TRUE(line.starts_with("data: ")) << line;
      has_ended = line == "data: [DONE]";
      if (!has_ended) out.push_back(Json::parse(line.substr(6)));
    }
    EXPECT_TRUE(has_ended);
    return out;
  }
  Generation generated(const std::vector<int32_t>& prompt, int64_t tokens, double temperature = 0) {
    GenerateOptions options;
    options.max_new_tokens = tokens;
    options.sampling = {.temperature = temperature, .seed = 7};
    return generate(model_, {prompt}, options).at(0);
  }

  LoadedModel model_ = small_loaded();
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<HttpServer> server_;
  std::unique_ptr<httplib::Client> client_;
  httplib::Headers headers_;
  int port_ = 0;
};

TEST_F(HttpServerTest, CompletesATextAsGenerateDoes) {
  const auto expected = generated(text_prompt(model_, "the year"), 12, 0.8);
  start();
  const auto body = asked("/v1/completions", {{"model", "small"},
                                              {"prompt", "the year"},
                                              {"max_tokens", 12},
                                              {"temperature", 0.8},
                                              {"seed", 7}});
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["model"], "small");
  ASSERT_EQ(body["choices"].size(), 1);
  EXPECT_EQ(body["choices"][0]["text"], expected.text);
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
  EXPECT_TRUE(body["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(body["usage"]["prompt_tokens"], text_prompt(model_, "the year").size());
  EXPECT_EQ(body["usage"]["completion_tokens"], 12);
}

TEST_F(HttpServerTest, TakesListsOfTextsAndOfTokens) {
  start();
  const auto ids = some_prompt(9), others = some_prompt(4, 1);
  const auto of = [&](const Json& prompt) {
    const auto body =
        asked("/v1/completions", {{"prompt", prompt}, {"max_tokens", 6}, {"temperature", 0}});
    std::vector<std::string> texts;
    for (const auto& choice : body["choices"]) texts.push_back(choice["text"]);
    return texts;
  };
  EXPECT_EQ(of(ids), of(Json::array({ids})));
  EXPECT_EQ(of(Json::array({ids, others})),
            (std::vector<std::string>{of(ids).at(0), of(others).at(0)}));
  EXPECT_EQ(of(Json::array({"the", "price of"})),
            (std::vector<std::string>{of("the").at(0), of("price of").at(0)}));
}

TEST_F(HttpServerTest, EchoWithLogprobsScoresThePromptAsLmEvalReadsIt) {
  const auto ids = some_prompt(30);
  const auto logprobs = torch::log_softmax(
      model_.model->forward(torch::tensor(ids, torch::kLong).unsqueeze(0))[0], 1);
  start();
  const auto body = asked("/v1/completions", {{"prompt", Json::array({ids, ids})},
                                              {"max_tokens", 1},
                                              {"temperature", 0},
                                              {"echo", true},
                                              {"logprobs", 1}});
  for (const auto& choice : body["choices"]) {
    const auto& scores = choice["logprobs"];
    for (const char* list : {"tokens", "token_logprobs", "top_logprobs", "text_offset"})
      ASSERT_EQ(scores[list].size(), 31) << list;
    EXPECT_TRUE(scores["token_logprobs"][0].is_null());
    EXPECT_TRUE(scores["top_logprobs"][0].is_null());
    EXPECT_EQ(scores["text_offset"][0], 0);
    for (size_t i = 1; i < 30; ++i) {
      const auto own = logprobs[static_cast<int64_t>(i) - 1];
      EXPECT_NEAR(scores["token_logprobs"][i].get<double>(), own[ids[i]].item<double>(), 1e-4);
      // lm-eval finds out from this whether the token is the likeliest
      double best = -1e9;
      for (const auto& [token, value] : scores["top_logprobs"][i].items())
        best = std::max(best, value.get<double>());
      EXPECT_NEAR(best, own.max().item<double>(), 1e-4);
      EXPECT_EQ(best == scores["token_logprobs"][i].get<double>(),
                own.argmax().item<int32_t>() == ids[i]);
    }
    const std::string text = choice["text"];
    EXPECT_TRUE(text.starts_with(model_.tokenizer->decode(ids)));
  }
  // scores alone
  const auto alone = asked("/v1/completions",
                           {{"prompt", ids}, {"max_tokens", 0}, {"echo", true}, {"logprobs", 0}});
  EXPECT_EQ(alone["choices"][0]["logprobs"]["tokens"].size(), 30);
  EXPECT_EQ(alone["usage"]["completion_tokens"], 0);
}

TEST_F(HttpServerTest, StopTextsEndAnAnswerAndAreNoPartOfIt) {
  const auto whole = generated(some_prompt(12), 30, 1.5).text;
  const size_t letter = whole.find_first_of("abcdefghijklmnopqrstuvwxyz", 2);
  ASSERT_NE(letter, std::string::npos);
  const auto stop = whole.substr(letter, 1);
  start();
  const auto body = asked("/v1/completions", {{"prompt", some_prompt(12)},
                                              {"max_tokens", 30},
                                              {"temperature", 1.5},
                                              {"seed", 7},
                                              {"stop", {stop, "@@"}}});
  EXPECT_EQ(body["choices"][0]["text"], whole.substr(0, whole.find(stop)));
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
}

TEST_F(HttpServerTest, AStreamJoinsToTheWholeAnswer) {
  start();
  Json request = {{"prompt", Json::array({"the price", "haha"})},
                  {"max_tokens", 15},
                  {"temperature", 0},
                  {"echo", true},
                  {"logprobs", 2}};
  const auto whole = asked("/v1/completions", request);
  request["stream"] = true;
  request["stream_options"] = {{"include_usage", true}};
  std::vector<std::string> texts(2), reasons(2);
  std::vector<Json> offsets(2, Json::array());
  const auto events = streamed("/v1/completions", request);
  for (const auto& event : events) {
    EXPECT_EQ(event["id"], events[0]["id"]);
    for (const auto& choice : event["choices"]) {
      const size_t index = choice["index"];
      texts[index] += choice["text"];
      for (const auto& offset : choice["logprobs"]["text_offset"]) offsets[index].push_back(offset);
      if (!choice["finish_reason"].is_null()) reasons[index] = choice["finish_reason"];
    }
  }
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(texts[i], whole["choices"][i]["text"]);
    EXPECT_EQ(offsets[i], whole["choices"][i]["logprobs"]["text_offset"]);
    EXPECT_EQ(reasons[i], whole["choices"][i]["finish_reason"]);
  }
  EXPECT_TRUE(events.back()["choices"].empty());
  EXPECT_EQ(events.back()["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
}

TEST_F(HttpServerTest, AnswersAChatInTheTemplateOfTheModel) {
  const std::vector<ChatMessage> messages = {{"user", "Hello"}};
  const auto expected = generated(Chat(model_).prompt(messages), 10);
  start();
  Json request = {{"messages", {{{"role", "user"}, {"content", "Hello"}}}},
                  {"max_completion_tokens", 10},
                  {"temperature", 0},
                  {"logprobs", true},
                  {"top_logprobs", 2}};
  const auto body = asked("/v1/chat/completions", request);
  const auto& choice = body["choices"][0];
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(choice["message"]["role"], "assistant");
  EXPECT_EQ(choice["message"]["content"], expected.text);
  ASSERT_EQ(choice["logprobs"]["content"].size(), 10);
  EXPECT_EQ(choice["logprobs"]["content"][3]["top_logprobs"].size(), 2);

  request["messages"][0]["content"] = Json::array({{{"type", "text"}, {"text", "Hello"}}});
  request["stream"] = true;
  std::string text;
  const auto events = streamed("/v1/chat/completions", request);
  EXPECT_EQ(events.at(0)["choices"][0]["delta"]["role"], "assistant");
  for (const auto& event : events) {
    EXPECT_EQ(event["object"], "chat.completion.chunk");
    text += event["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(text, expected.text);
  EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "length");
}

TEST_F(HttpServerTest, WithoutMaxTokensAnAnswerTakesNoMoreThanTheBudgetHolds) {
  const auto prompt = static_cast<int64_t>(Chat(model_).prompt({{"user", "Hello"}}).size());
  start({}, {.cache_budget = bytes_of_tokens(model_, prompt + 7)});
  Json request = {{"messages", {{{"role", "user"}, {"content", "Hello"}}}}, {"temperature", 0}};
  // the last token is never fed in
  EXPECT_EQ(asked("/v1/chat/completions", request)["usage"]["completion_tokens"], 8);
  asked("/v1/completions", {{"prompt", some_prompt(prompt)}});
  request["max_tokens"] = 9;
  EXPECT_EQ(refused(request.dump(), 400, "/v1/chat/completions")["code"], "cache_budget_exceeded");
}

TEST_F(HttpServerTest, RefusesBadRequestsWithTheFieldThatIsWrong) {
  start({}, {.cache_budget = bytes_of_tokens(model_, 100)});
  const std::vector<std::tuple<std::string, std::string, std::string>> cases = {
      {R"({"prompt": "x", "temperature": -1})", "temperature", "give 0 to 100"},
      {R"({"prompt": "x", "temperature": "hot"})", "temperature", "a number"},
      {R"({"prompt": "x", "top_p": 0})", "top_p", "is 0"},
      {R"({"prompt": "x", "max_tokens": 0})", "max_tokens", "is 0"},
      {R"({"prompt": "x", "max_tokens": 1e99})", "max_tokens", "an integer"},
      {R"({"prompt": "x", "max_tokens": 18446744073709551615})", "max_tokens", "give 1 to"},
      {R"({"prompt": "x", "temprature": 1})", "temprature", "temperature"},
      {R"({"prompt": "x", "n": 2})", "n", "not supported"},
      {R"({"prompt": "x", "stop": ["a", ""]})", "stop", "empty"},
      {R"({"prompt": "x", "stop": [1]})", "stop", "strings"},
      {R"({"prompt": "x", "logprobs": 21})", "logprobs", "is 21"},
      {R"({"prompt": [1, -2]})", "prompt", "-2"},
      {R"({"prompt": [1, "x"]})", "prompt", "string among token ids"},
      {R"({"prompt": []})", "prompt", "neither"},
      {R"({"prompt": 3})", "prompt", "neither"},
      {R"({"max_tokens": 3})", "prompt", "missing"},
      {R"([])", "the request", "object"}};
  for (const auto& [body, field, part] : cases) {
    const auto error = refused(body, 400);
    EXPECT_EQ(error["type"], "invalid_request_error");
    EXPECT_EQ(error["param"], field) << body;
    EXPECT_NE(error["message"].get<std::string>().find(part), std::string::npos) << error;
  }
  EXPECT_EQ(refused("{\"prompt\": \"x\"", 400)["code"], "invalid_json");
  EXPECT_EQ(refused("{\"prompt\": \"\xff\"}", 400)["code"], "invalid_json");
  EXPECT_EQ(refused(R"({"prompt": [700]})", 400)["code"], "invalid_value");
  EXPECT_EQ(refused(R"({"prompt": "x", "max_tokens": 255})", 400)["code"],
            "context_length_exceeded");
  const std::string large = R"({"prompt": "x", "max_tokens": 200)";
  EXPECT_EQ(refused(large + "}", 400)["code"], "cache_budget_exceeded");
  EXPECT_EQ(refused(large + R"(, "stream": true})", 400)["code"], "cache_budget_exceeded");
  EXPECT_EQ(refused(R"({"prompt": "x", "model": "other"})", 404)["code"], "model_not_found");
  for (const char* messages : {"[]", "3", R"([{"role": "tool", "content": "x"}])",
                               R"([{"role": "user"}])", R"([{"role": "user", "content": [1]}])"})
    refused(std::string(R"({"messages": )") + messages + "}", 400, "/v1/chat/completions");
  EXPECT_EQ(refused("{}", 404, "/v1/nothing")["type"], "invalid_request_error");
  EXPECT_EQ(client_->Post("/v1/completions", R"({"prompt": "x"})", "text/plain")->status, 415);
}

TEST_F(HttpServerTest, RefusesBodiesThatAreTooLong) {
  start({.max_body = 1000});
  const auto long_body = Json({{"prompt", std::string(5000, 'x')}}).dump();
  EXPECT_EQ(refused(long_body, 413)["code"], "body_too_long");
  const auto result = client_->Post(
      "/v1/completions", {},
      [&](size_t offset, httplib::DataSink& sink) {  // its length is not said before
        if (offset < long_body.size()) {
          const size_t piece = std::min<size_t>(900, long_body.size() - offset);
          sink.write(long_body.data() + offset, piece);
        } else {
          sink.done();
        }
        return true;
      },
      "application/json");
  ASSERT_TRUE(result);
  EXPECT_EQ(result->status, 413);
}

TEST_F(HttpServerTest, AsksForItsKey) {
  start({.api_key = "open sesame"});
  for (const char* given : {"", "Bearer ", "Bearer open", "Bearer open sesame!", "open sesame",
                            "Bearer open sesame%00"}) {
    headers_ = {{"Authorization", given}};
    EXPECT_EQ(refused(R"({"prompt": "x"})", 401)["code"], "invalid_api_key") << given;
    EXPECT_EQ(client_->Get("/v1/models", headers_)->status, 401);
    EXPECT_EQ(client_->Get("/metrics", headers_)->status, 401);
  }
  headers_ = {{"Authorization", "Bearer open sesame"}};
  EXPECT_EQ(client_->Get("/v1/models", headers_)->status, 200);
  EXPECT_EQ(asked("/v1/completions", {{"prompt", "x"}})["object"], "text_completion");
  EXPECT_EQ(client_->Get("/health")->status, 200);
}

TEST_F(HttpServerTest, AKeyMayHavePercentSigns) {
  start({.api_key = "100%41%"});
  EXPECT_EQ(client_->Get("/v1/models", {{"Authorization", "Bearer 100%41%"}})->status, 200);
  EXPECT_EQ(client_->Get("/v1/models", {{"Authorization", "Bearer 100%42%"}})->status, 401);
}

TEST_F(HttpServerTest, TellsWhatItHasDone) {
  start();
  asked("/v1/completions", {{"prompt", some_prompt(20)}, {"max_tokens", 5}, {"temperature", 0}});
  refused("{", 400);
  ASSERT_TRUE(eventually([&] { return engine_->metrics().gauges().running == 0; }));
  const auto result = client_->Get("/metrics");
  for (const char* line :
       {"kvsmith_requests_total{outcome=\"invalid\"} 1\n",
        "kvsmith_requests_total{outcome=\"length\"} 1\n", "kvsmith_requests_running 0\n",
        "kvsmith_prompt_tokens_total 20\n", "kvsmith_generated_tokens_total 5\n",
        "kvsmith_first_token_seconds_count 1\n", "kvsmith_cache_budget_bytes 1073741824\n"})
    EXPECT_NE(result->body.find(line), std::string::npos) << line << result->body;
  const auto models = Json::parse(client_->Get("/v1/models")->body);
  EXPECT_EQ(models["data"][0]["id"], "small");
}

TEST_F(HttpServerTest, AClientThatLeavesTakesItsTextsWithIt) {
  start({.timeout = std::chrono::seconds(50)}, {.max_sequences = 1});
  for (const bool streams : {false, true}) {
    httplib::Client hasty("127.0.0.1", port_);
    httplib::Request request;
    request.method = "POST";
    request.path = "/v1/completions";
    request.set_header("Content-Type", "application/json");
    request.body = Json({{"prompt", {some_prompt(9), some_prompt(8), some_prompt(7)}},
                         {"max_tokens", 240},
                         {"stream", streams}})
                       .dump();
    if (streams) {  // leaves once a part has come
      request.content_receiver = [](const char*, size_t, uint64_t, uint64_t) { return false; };
    } else {  // leaves before anything has come
      hasty.set_read_timeout(0, 50'000);
    }
    EXPECT_FALSE(hasty.send(request));
    ASSERT_TRUE(eventually([&] {
      const auto now = engine_->metrics().gauges();
      return now.running == 0 && now.queued == 0;
    }));
  }
  EXPECT_NE(engine_->metrics().text().find("outcome=\"cancelled\""), std::string::npos);
}

TEST_F(HttpServerTest, StopsWithTheAnswersUnderWay) {
  start();
  int status = 0;
  std::thread asking([&] {
    const auto result =
        post("/v1/completions",
             Json({{"prompt", "the"}, {"max_tokens", 200}, {"temperature", 0}}).dump());
    if (result) status = result->status;
  });
  ASSERT_TRUE(eventually([&] { return engine_->metrics().gauges().running == 1; }));
  server_->stop(std::chrono::seconds(30));
  asking.join();
  EXPECT_EQ(status, 200);
  EXPECT_FALSE(client_->Get("/health"));
}

TEST_F(HttpServerTest, ATakenPortIsAnError) {
  start();
  HttpServer other(*engine_, {.port = port_});
  expect_error([&] { other.start(); }, ExitCode::kCannotCreate, "cannot listen");
}

}  // namespace
}  // namespace kvsmith
