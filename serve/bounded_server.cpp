#include "serve/bounded_server.h"

#include <algorithm>
#include <cctype>
#include <exception>
#include <functional>
#include <latch>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <sys/socket.h>
#include <unistd.h>

#include "core/error.h"
#include "core/text.h"
#include "serve/api_answer.h"

namespace kvsmith {
namespace {

constexpr int kBacklog = 1024;
constexpr std::chrono::milliseconds kFinish{1000};  // for a peer to read the last answer
constexpr size_t kMostHeaders = 100;
constexpr int64_t kMostDigits = 15;

/// That the connection which this thread is given must be turned away.
thread_local bool is_full = false;

/// Threads for connections, and a queue of no more than as many.
class BoundedPool final : public httplib::TaskQueue {
 public:
  /// `has_ended` becomes true once nothing more will come.
  BoundedPool(size_t threads, std::atomic<bool>& has_ended)
      : most_(static_cast<int>(2 * threads)), has_ended_(has_ended), pool_(threads) {}

  void enqueue(std::function<void()> work) override {
    if (open_ >= most_) {
      is_full = true;
      work();
      is_full = false;
      return;
    }
    ++open_;
    pool_.enqueue([this, work = std::move(work)] {
      work();
      --open_;
    });
  }
  void shutdown() override {
    has_ended_ = true;
    pool_.shutdown();
  }

 private:
  int most_;
  std::atomic<bool>& has_ended_;
  std::atomic<int> open_ = 0;
  httplib::ThreadPool pool_;
};

/// Has so many threads for a moment: where the pool finds too few, the program ends.
void try_threads(size_t count) {
  std::latch end(1);
  std::vector<std::jthread> threads;
  threads.reserve(count);
  try {
    while (threads.size() < count) threads.emplace_back([&end] { end.wait(); });
    end.count_down();
  } catch (const std::system_error& error) {
    end.count_down();
    throw Error(ExitCode::kOutOfMemory,
                {cat("only ", threads.size(), " of ", count, " threads: ", error.what()),
                 "--max-connections", "give fewer, or raise the limits of this process"});
  }
}

/// An answer without a request.
void answer_plainly(httplib::Stream& stream, const Failure& failure) {
  const auto* reason = failure.status == 400   ? "Bad Request"
                       : failure.status == 408 ? "Request Timeout"
                       : failure.status == 431 ? "Request Header Fields Too Large"
                                               : "Service Unavailable";
  const auto body = dumped(error_json(failure));
  const auto text =
      cat("HTTP/1.1 ", failure.status, " ", reason, "\r\n",
          failure.status == 503 ? "Retry-After: 1\r\n" : "",
          "Content-Type: application/json\r\nConnection: close\r\nContent-Length: ", body.size(),
          "\r\n\r\n", body);
  stream.write(text.data(), text.size());
}

bool is_length(const std::string& text) {
  return !text.empty() && text.size() <= kMostDigits &&
         std::ranges::all_of(text, [](unsigned char c) { return std::isdigit(c) != 0; });
}

}  // namespace

BoundedServer::BoundedServer(const ConnectionLimits& limits) : limits_(limits) {
  set_payload_max_length(limits.body_bytes);
  set_keep_alive_timeout(std::chrono::ceil<std::chrono::seconds>(limits.idle).count());
  set_keep_alive_max_count(1000);
  new_task_queue = [this] { return new BoundedPool(limits_.at_once, has_ended_); };
  try_threads(limits_.at_once);
}

void BoundedServer::lengthen_backlog() { ::listen(svr_sock_, kBacklog); }

std::optional<Failure> BoundedServer::fault_of(const httplib::Request& request) const {
  const auto fault = [](int status, const std::string& what,
                        const std::string& code = "invalid_length") {
    return Failure{status, what, code};
  };
  const bool may_have_body =
      request.method != "GET" && request.method != "HEAD" && request.method != "OPTIONS";
  const auto lengths = request.get_header_value_count("Content-Length");
  const auto codings = request.get_header_value_count("Transfer-Encoding");
  const auto length = request.get_header_value("Content-Length");
  constexpr size_t kOwn = 4;  // addresses and ports, which httplib puts among them
  if (request.headers.size() > kMostHeaders + kOwn)
    return fault(431, cat("more than ", kMostHeaders, " headers"), "too_many_headers");
  if (lengths + codings > 1) return fault(400, "the length of the body is told more than once");
  if (codings == 1 && request.get_header_value("Transfer-Encoding") != "chunked")
    return fault(400, "the Transfer-Encoding is not chunked");
  if (lengths == 1 && !is_length(length))
    return fault(400, "the Content-Length is no number of bytes");
  if (!may_have_body && lengths + codings > 0 && length != "0")
    return fault(400, cat("a body with ", request.method));
  if (may_have_body && lengths + codings == 0) return fault(411, "there is no Content-Length");
  if (lengths == 1 && std::stoll(length) > static_cast<int64_t>(limits_.body_bytes))
    return fault(413, cat("the body is longer than ", limits_.body_bytes, " bytes"),
                 "body_too_long");
  return {};
}

bool BoundedServer::answer_next(BoundedStream& stream, bool may_go_on) {
  if (const int fault = stream.read_head()) {
    const char* what = fault == 431 ? "the headers are too long" : "the request has no end";
    if (fault > 0) answer_plainly(stream, {fault, what, "invalid_request"});
    return false;
  }
  bool is_last = false, is_answered = false;
  int under_way = 0;
  try {
    is_answered = process_request(stream, !may_go_on, is_last, [&](httplib::Request&) {
      ++answering_, ++under_way;
      stream.expect_body();
    });
  } catch (const std::exception&) {
    is_last =
        true;  // what is thrown while an answer is written ends its connection, not the server
  }
  answering_ -= under_way;
  return is_answered && !is_last && !stream.is_last() && may_go_on;
}

bool BoundedServer::process_and_close_socket(socket_t socket) {
  BoundedStream stream(socket, limits_, [this] { return svr_sock_ == INVALID_SOCKET; });
  if (is_full) {
    answer_plainly(stream, {503, "too many connections; try later", "too_many_connections"});
    stream.finish(std::chrono::milliseconds(0));
  }
  for (size_t left = keep_alive_max_count_; !is_full && stream.has_request(); --left) {
    if (answer_next(stream, left > 1)) continue;
    stream.finish(kFinish);
    break;
  }
  ::close(socket);
  return true;
}

}  // namespace kvsmith
