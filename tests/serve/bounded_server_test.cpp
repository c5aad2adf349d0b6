#include "serve/bounded_server.h"

#include <fstream>
#include <thread>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "core/text.h"
#include "tests/serve/raw_client.h"
#include "tests/support/child.h"

namespace kvsmith {
namespace {

using std::chrono::milliseconds;

const std::string kGet = "GET /ping HTTP/1.1\r\n\r\n";

/// Its next accept() fails, as where the kernel has no memory for a connection.
class FailingServer final : public BoundedServer {
 public:
  using BoundedServer::BoundedServer;
  void fail() { ::shutdown(svr_sock_, SHUT_RDWR); }
};

/// A server that answers "pong" on a port of its own.
class BoundedServerTest : public ::testing::Test {
 protected:
  void start(const ConnectionLimits& limits) {
    server_ = std::make_unique<FailingServer>(limits);
    server_->Get("/ping", [](const httplib::Request&, httplib::Response& response) {
      response.set_content("pong", "text/plain");
    });
    server_->Get("/last", [](const httplib::Request&, httplib::Response& response) {
      response.set_content("last", "text/plain");
      response.set_header("Connection", "close");
    });
    server_->Get("/breaks", [](const httplib::Request&, httplib::Response& response) {
      response.set_chunked_content_provider("text/plain", [](size_t, httplib::DataSink&) -> bool {
        throw std::runtime_error("it broke");
      });
    });
    port_ = server_->bind_to_any_port("127.0.0.1");
    server_->lengthen_backlog();
    thread_ = std::thread([this] { server_->listen_after_bind(); });
    while (!server_->is_running()) std::this_thread::yield();
  }
  void TearDown() override {
    server_->stop();
    thread_.join();
  }
  std::string answer_to(const std::string& bytes) { return RawClient(port_).answer_to(bytes); }
  static int64_t count(const std::string& text, const std::string& part) {
    int64_t times = 0;
    for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++times;
    return times;
  }

  std::unique_ptr<FailingServer> server_;
  std::thread thread_;
  int port_ = 0;
};

TEST_F(BoundedServerTest, AnswersRequestsThatComeTogether) {
  start({.idle = milliseconds(50)});
  const auto answer = answer_to(kGet + kGet + "GET /last HTTP/1.1\r\n\r\n" + kGet);
  EXPECT_EQ(count(answer, "pong"), 2) << answer;
  EXPECT_TRUE(answer.ends_with("last")) << answer;  // the one behind it is not answered
}

TEST_F(BoundedServerTest, AHeadHasABoundedLength) {
  start({.head_bytes = 4096});
  const std::string line = "x: y\r\n";
  std::string flood = "GET /ping HTTP/1.1\r\n";
  while (flood.size() < 5000) flood += line;
  for (const auto& head : {flood, "GET /" + std::string(5000, 'x'), flood + "\r\n",
                           "GET /ping HTTP/1.1\r\nx: " + std::string(5000, 'x')})
    EXPECT_TRUE(answer_to(head).starts_with("HTTP/1.1 431")) << head.substr(0, 30);
}

TEST_F(BoundedServerTest, AHeadThatComesSlowlyHasABoundedTime) {
  start({.head = milliseconds(300)});
  RawClient slow(port_);
  while (slow.send("x")) std::this_thread::sleep_for(milliseconds(20));
  EXPECT_TRUE(RawClient(port_).answer_to("GET /pi").starts_with("HTTP/1.1 408"));
  EXPECT_TRUE(RawClient(port_).answer_to("GET /last HTTP/1.1\r\n\r\n").ends_with("last"));
}

TEST_F(BoundedServerTest, BeyondTwiceTheConnectionsClientsAreTurnedAway) {
  start({.at_once = 1, .idle = milliseconds(20'000)});
  RawClient served(port_), waiting(port_);
  const auto answer = answer_to(kGet);
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 503")) << answer;
  EXPECT_EQ(count(answer, "Retry-After: 1\r\n"), 1) << answer;
  served.leave();
  EXPECT_TRUE(waiting.answer_to("GET /last HTTP/1.1\r\n\r\n").ends_with("last"));
}

TEST_F(BoundedServerTest, RangesAreNotHeeded) {
  start({.idle = milliseconds(50)});
  std::string many = "bytes=0-0";
  while (many.size() < 60'000) many += ",0-0";
  for (const std::string& range : {std::string("bytes=1-2"), std::string("bytes=9-"), many}) {
    const auto answer =
        answer_to(cat("GET /ping HTTP/1.1\r\na: b\r\nrange: ", range, "\r\nRANGE: x\r\n\r\n"));
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 200")) << answer;
    EXPECT_TRUE(answer.ends_with("\r\n\r\npong")) << answer;
  }
}

TEST_F(BoundedServerTest, WhatIsThrownInAStreamEndsItsConnectionAlone) {
  start({});
  EXPECT_EQ(answer_to("GET /breaks HTTP/1.1\r\n\r\n").find("*"), std::string::npos);
  EXPECT_TRUE(answer_to("GET /last HTTP/1.1\r\n\r\n").ends_with("last"));
  EXPECT_EQ(server_->answering(), 0);
}

TEST_F(BoundedServerTest, TellsThatItTakesNoMoreConnectionsWhileItAnswersOthers) {
  start({.idle = milliseconds(20'000)});
  EXPECT_TRUE(server_->is_listening());
  RawClient served(port_);
  answer_to("GET /last HTTP/1.1\r\n\r\n");  // accepted after the other
  server_->fail();
  for (int i = 0; i < 1000 && server_->is_listening(); ++i)
    std::this_thread::sleep_for(milliseconds(5));
  EXPECT_FALSE(server_->is_listening());
  EXPECT_TRUE(server_->is_running());
  EXPECT_TRUE(served.answer_to("GET /last HTTP/1.1\r\n\r\n").ends_with("last"));
}

TEST(BoundedServer, ThreadsThatAreNotToBeHadAreAnError) {
  const int code = in_child([] {
    constexpr uint64_t kRoom = 256 << 20;  // of a few stacks
    uint64_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlimit most{pages * ::sysconf(_SC_PAGESIZE) + kRoom, RLIM_INFINITY};
    if (::setrlimit(RLIMIT_AS, &most) != 0) return kNotPossibleHere;
    const BoundedServer server({.at_once = 1000});
    return 0;
  });
  if (code == kNotPossibleHere) GTEST_SKIP() << "no limits here";
  EXPECT_EQ(code, static_cast<int>(ExitCode::kOutOfMemory));
}

TEST_F(BoundedServerTest, AStopEndsConnectionsThatAreIdleOrSlow) {
  start(
      {.head = milliseconds(60'000), .pause = milliseconds(60'000), .idle = milliseconds(60'000)});
  RawClient idle(port_), slow(port_);
  slow.send("GET /pi");
  std::this_thread::sleep_for(milliseconds(50));
  server_->stop();
  for (auto* client : {&idle, &slow}) EXPECT_FALSE(client->rest().ends_with("*"));
}

}  // namespace
}  // namespace kvsmith
