#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>

#include <httplib.h>

namespace kvsmith {

/// What one connection may cost.
struct ConnectionLimits {
  size_t at_once = 64;          ///< served; as many again wait, and others are turned away
  size_t body_bytes = 1 << 20;  ///< of a body; the framing of chunks may take as many again
  std::chrono::milliseconds answer{600'000};  ///< for an answer to be taken
  size_t head_bytes = 1 << 16;                ///< of a request line with its headers
  std::chrono::milliseconds head{10'000};     ///< for all of them to come
  std::chrono::milliseconds body{30'000};     ///< for a body to come
  std::chrono::milliseconds pause{10'000};    ///< between two pieces of a body, or of an answer
  std::chrono::milliseconds idle{3'000};      ///< between two requests
};

/// A connection as httplib reads and writes it, within limits: beyond them there is nothing more to
/// read. For one thread.
class BoundedStream final : public httplib::Stream {
 public:
  /// `is_stopping`: asked now and then while nothing comes; then nothing will. Both outlive this
  /// object, and the socket stays open.
  BoundedStream(socket_t socket, const ConnectionLimits& limits, std::function<bool()> is_stopping);

  /// Waits for a next request. False where there is none for too long.
  bool has_request();
  /// Reads the whole head of a request, which is then there to be read; without ranges, for nobody
  /// needs a part of an answer, and httplib matches them by a recursion. 0, or the status of HTTP
  /// that tells what is wrong; -1: the other end has closed.
  int read_head();
  /// What is read from now on is a body.
  void expect_body();
  /// The request has not come to its end, or an answer has said that it is the last.
  bool is_last() const { return is_last_; }
  /// Says that there will be no more, and reads what still comes for so long: a connection
  /// that is closed with something unread loses the answer.
  void finish(std::chrono::milliseconds patience);

  bool is_readable() const override;
  bool is_writable() const override;
  ssize_t read(char* to, size_t size) override;
  ssize_t write(const char* from, size_t size) override;
  void get_remote_ip_and_port(std::string& ip, int& port) const override;
  void get_local_ip_and_port(std::string& ip, int& port) const override;
  socket_t socket() const override { return socket_; }

 private:
  using Clock = std::chrono::steady_clock;

  void erase_ranges();
  /// Takes in what comes until then. Whether there was anything.
  bool fill(Clock::time_point until);
  bool is_ready(short events, Clock::time_point until, bool may_stop) const;

  socket_t socket_;
  const ConnectionLimits& limits_;
  std::function<bool()> is_stopping_;
  std::string come_;             ///< and not read yet, from begin_
  size_t begin_ = 0, left_ = 0;  ///< left_: bytes that may be read
  Clock::time_point body_deadline_;
  std::optional<Clock::time_point> answer_deadline_;
  bool has_closed_ = false, is_last_ = false;
};

}  // namespace kvsmith
