#include <cmath>
#include <thread>

#include <gtest/gtest.h>

#include "serve/http_server.h"
#include "tests/serve/raw_client.h"
#include "tests/serve/small_engine.h"

namespace kvsmith {
namespace {

using Json = nlohmann::json;

constexpr int64_t kSick = 599;  // the token whose embedding is not a number

/// A server whose clients send what they like.
class HostileClients : public ::testing::Test {
 protected:
  void start(HttpOptions http = {}, const EngineOptions& engine = {}) {
    http.port = 0;
    http.timeout = std::chrono::seconds(50);
    engine_ = std::make_unique<Engine>(model_, engine);
    server_ = std::make_unique<HttpServer>(*engine_, http);
    port_ = server_->start();
  }
  static std::string post(const std::string& body,
                          const std::string& headers = "Content-Type: application/json\r\n") {
    return "POST /v1/completions HTTP/1.1\r\nConnection: close\r\n" + headers +
           "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  }
  static std::string post(const Json& body) { return post(body.dump()); }
  /// The status of an answer with an error in JSON, -1 of another, or of none.
  static int refusal(const std::string& answer) {
    const size_t head = answer.find("\r\n\r\n");
    if (!answer.starts_with("HTTP/1.1 ") || head == std::string::npos) return -1;
    const auto body = Json::parse(answer.substr(head + 4), nullptr, /*allow_exceptions=*/false);
    return body.is_object() && body.contains("error") ? std::stoi(answer.substr(9)) : -1;
  }
  std::string answer_to(const std::string& bytes) { return RawClient(port_).answer_to(bytes); }
  void expect_well() {
    const auto answer = answer_to(post(Json{{"prompt", "x"}, {"max_tokens", 2}}));
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 200")) << answer;
  }
  bool is_idle() const {
    const auto now = engine_->metrics().gauges();
    return now.running == 0 && now.queued == 0;
  }

  LoadedModel model_ =
      small_loaded([](ModelConfig& config) { config.tie_word_embeddings = false; });
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<HttpServer> server_;
  int port_ = 0;
};

TEST_F(HostileClients, JsonThatNestsDeeplyIsRefusedBeforeItIsCopied) {
  start();
  for (const auto& [opening, closing] :
       {std::pair<std::string, std::string>{"[", "]"}, {"{\"a\":", "}"}}) {
    std::string deep, end;
    for (int i = 0; i < 100'000; ++i) deep += opening, end += closing;
    deep += "1" + end;
    for (const std::string field : {"prompt", "stop", "logit_bias"})
      EXPECT_EQ(refusal(answer_to(post("{\"" + field + "\": " + deep + "}"))), 400) << field;
  }
  expect_well();
}

TEST_F(HostileClients, BodiesWhoseEndIsUnclearAreRefused) {
  start({.max_body = 1000});
  const std::string body = "{\"prompt\": \"x\"}\r\n";
  const std::vector<std::pair<std::string, int>> cases = {
      {"Content-Length: -5\r\n", 400},
      {"Content-Length: 15x\r\n", 400},
      {"Content-Length: 99999999999999999999\r\n", 400},
      {"Content-Length: 5\r\nContent-Length: 15\r\n", 400},
      {"Content-Length: 15\r\nTransfer-Encoding: chunked\r\n", 400},
      {"Transfer-Encoding: gzip, chunked\r\n", 400},
      {"Transfer-Encoding: chunked\r\n", 400},  // of bytes that are no chunks
      {"Content-Length: 1000000000000\r\n", 413},
      {"", 411}};
  for (const auto& [headers, status] : cases) {
    const auto answer =
        answer_to("POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\n" + headers +
                  "\r\n" + body);
    EXPECT_EQ(refusal(answer), status) << headers << answer;
  }
  EXPECT_EQ(refusal(answer_to("GET /health HTTP/1.1\r\nContent-Length: 15\r\n\r\n" + body)), 400);
  expect_well();
}

TEST_F(HostileClients, BodiesForNobodyAreNotRead) {
  start();
  const std::string endless = "Transfer-Encoding: chunked\r\n\r\nfffffff\r\n";
  for (const char* head : {"POST /v1/nothing", "PUT /v1/completions", "DELETE /health"})
    EXPECT_EQ(refusal(answer_to(std::string(head) + " HTTP/1.1\r\n" + endless)), 404) << head;
  EXPECT_EQ(
      refusal(answer_to("POST /v1/completions HTTP/1.1\r\nContent-Type: text/plain\r\n" + endless)),
      415);
  const std::string form = "Content-Type: multipart/form-data; boundary=x\r\n";
  EXPECT_EQ(refusal(answer_to(post("--x\r\n\r\nb\r\n--x--\r\n", form))), 415);
}

TEST_F(HostileClients, WhatFollowsABodyThatWasNotReadIsNoRequest) {
  start();
  const auto answer = answer_to(
      "POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\n"
      "Transfer-Encoding: chunked\r\n\r\nxyz\r\nGET /health HTTP/1.1\r\n\r\n");
  EXPECT_EQ(refusal(answer), 400) << answer;
  EXPECT_EQ(answer.find("HTTP/1.1", 1), std::string::npos) << answer;
}

TEST_F(HostileClients, TrailersAreRefusedByTheirName) {
  start();
  const std::string chunks =
      "POST /v1/completions HTTP/1.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
      "Transfer-Encoding: chunked\r\n\r\nf\r\n{\"prompt\": \"x\"}\r\n0\r\n";
  EXPECT_TRUE(answer_to(chunks + "\r\n").starts_with("HTTP/1.1 200"));
  const auto answer = answer_to(chunks + "X-Sum: 1\r\n\r\n");
  EXPECT_EQ(refusal(answer), 400) << answer;
  EXPECT_NE(answer.find("trailers"), std::string::npos) << answer;
}

TEST_F(HostileClients, AStreamInAnOlderHttpHasNoChunksAndEndsItsConnection) {
  start();
  auto request = post(Json{{"prompt", "x"}, {"max_tokens", 4}, {"stream", true}});
  const std::string version = "HTTP/1.1\r\nConnection: close";
  request.replace(request.find(version), version.size(), "HTTP/1.0\r\nConnection: Keep-Alive");
  const auto answer = answer_to(request);
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200")) << answer;
  EXPECT_EQ(answer.find("Transfer-Encoding"), std::string::npos) << answer;
  EXPECT_NE(answer.find("\r\nConnection: close\r\n"), std::string::npos) << answer;
  EXPECT_TRUE(answer.ends_with("data: [DONE]\n\n")) << answer;
}

TEST_F(HostileClients, ManyHeadersAreRefused) {
  start();
  const auto with_headers = [](int count) {
    std::string out = "GET /health HTTP/1.1\r\nConnection: close\r\n";
    for (int i = 1; i < count; ++i) out += "x: y\r\n";
    return out + "\r\n";
  };
  EXPECT_TRUE(answer_to(with_headers(100)).starts_with("HTTP/1.1 200"));
  EXPECT_EQ(refusal(answer_to(with_headers(101))), 431);
}

TEST_F(HostileClients, TextThatCannotFitIsRefusedBeforeItIsSplitIntoTokens) {
  start();
  const std::string endless(900'000, 'x');
  EXPECT_EQ(refusal(answer_to(post(Json{{"prompt", endless}}))), 400);
  const auto chat = Json{{"messages", {{{"role", "user"}, {"content", endless}}}}}.dump();
  auto request = post(chat);
  request.replace(request.find("/v1/completions"), 15, "/v1/chat/completions");
  const auto answer = answer_to(request);
  EXPECT_EQ(refusal(answer), 400);
  EXPECT_NE(answer.find("more than a context of 256 tokens can hold"), answer.npos) << answer;
}

TEST_F(HostileClients, AClientThatLeavesIsMissedWhateverItHasSentBefore) {
  start();
  RawClient client(port_);
  client.send(post(Json{{"prompt", some_prompt(10)}, {"max_tokens", 240}}) + "and more");
  ASSERT_TRUE(eventually([&] { return engine_->metrics().gauges().running == 1; }));
  client.leave();
  EXPECT_TRUE(eventually([&] { return is_idle(); }));
  EXPECT_NE(engine_->metrics().text().find("outcome=\"cancelled\""), std::string::npos);
}

TEST_F(HostileClients, AUserWithManyTextsDoesNotStarveAnotherOfTheSameAddress) {
  start({}, {.max_sequences = 1});
  Json many = Json::array();
  for (int32_t i = 0; i < 20; ++i) many.push_back(some_prompt(10, i));
  RawClient greedy(port_);
  greedy.send(post(Json{{"prompt", many}, {"max_tokens", 100}, {"user", "many"}}));
  ASSERT_TRUE(eventually([&] { return engine_->metrics().gauges().queued > 10; }));
  const auto answer = answer_to(post(Json{{"prompt", "x"}, {"max_tokens", 2}, {"user", "one"}}));
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200")) << answer;
  EXPECT_GT(engine_->metrics().gauges().queued, 0);
}

TEST_F(HostileClients, BeyondTheQueueTheySeeWhenToComeAgain) {
  start({}, {.max_sequences = 1, .max_queued = 2});
  const Json two = {some_prompt(10, 1), some_prompt(10, 2)};
  RawClient first(port_);
  first.send(post(Json{{"prompt", two}, {"max_tokens", 240}}));
  ASSERT_TRUE(eventually([&] { return engine_->metrics().gauges().running == 1; }));
  const auto answer = answer_to(post(Json{{"prompt", two}, {"max_tokens", 100}}));
  EXPECT_EQ(refusal(answer), 429) << answer;
  EXPECT_NE(answer.find("Retry-After: 1\r\n"), std::string::npos);
}

TEST_F(HostileClients, MorePromptsThanMayEverWaitAreRefusedForGood) {
  start({}, {.max_queued = 2});
  const Json three = {some_prompt(10, 1), some_prompt(10, 2), some_prompt(10, 3)};
  const auto answer = answer_to(post(Json{{"prompt", three}, {"max_tokens", 2}}));
  EXPECT_EQ(refusal(answer), 400) << answer;
  EXPECT_NE(answer.find("has 3 texts, and at most 2 may wait"), std::string::npos) << answer;
  EXPECT_EQ(answer.find("Retry-After"), std::string::npos) << answer;
}

TEST_F(HostileClients, LogitsThatAreNotNumbersAreAnErrorOfTheirRequest) {
  {
    const torch::NoGradGuard no_grad;
    named_parameters(*model_.model)[0].second[kSick].fill_(NAN);
  }
  start();
  for (const bool streams : {false, true}) {
    for (const double temperature : {0.0, 1.0}) {
      const auto answer = answer_to(post(Json{{"prompt", {5, 6, kSick}},
                                              {"max_tokens", 4},
                                              {"temperature", temperature},
                                              {"stream", streams}}));
      EXPECT_EQ(refusal(answer), 500) << answer;
      EXPECT_NE(answer.find("not_a_number"), std::string::npos) << answer;
    }
    expect_well();
  }
}

TEST_F(HostileClients, AStopLetsStreamsComeToTheirEnds) {
  start();
  std::vector<std::thread> asking;
  std::vector<std::string> answers(6);
  for (size_t i = 0; i < answers.size(); ++i)
    asking.emplace_back([&, i] {
      answers[i] = answer_to(post(Json{{"prompt", some_prompt(10, static_cast<int32_t>(i))},
                                       {"max_tokens", 60},
                                       {"logprobs", 5},
                                       {"stream", true}}));
    });
  ASSERT_TRUE(eventually([&] { return engine_->metrics().gauges().running == 6; }));
  server_->stop(std::chrono::seconds(30));
  for (auto& thread : asking) thread.join();
  for (const auto& answer : answers)
    EXPECT_NE(answer.find("data: [DONE]"), std::string::npos) << answer.substr(0, 300);
}

}  // namespace
}  // namespace kvsmith
