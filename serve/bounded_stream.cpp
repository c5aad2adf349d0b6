#include "serve/bounded_stream.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

namespace kvsmith {
namespace {

constexpr std::chrono::milliseconds kSlice{100};  // after which a stop is seen
constexpr size_t kMostUnread = 4 << 20;           // a peer that sends more does not listen

void numbers_of(const sockaddr_storage& address, socklen_t size, std::string& ip, int& port) {
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> service{};
  if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host.data(), host.size(),
                    service.data(), service.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return;
  ip = host.data();
  port = std::stoi(service.data());
}

}  // namespace

BoundedStream::BoundedStream(socket_t socket,
                             const ConnectionLimits& limits,
                             std::function<bool()> is_stopping)
    : socket_(socket), limits_(limits), is_stopping_(std::move(is_stopping)) {}

bool BoundedStream::is_ready(short events, Clock::time_point until, bool may_stop) const {
  while (!may_stop || !is_stopping_()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now());
    const auto patience = std::clamp(left, std::chrono::milliseconds(0), kSlice);
    pollfd one{socket_, events, 0};
    const int got = ::poll(&one, 1, static_cast<int>(patience.count()));
    if (got > 0) return true;
    if (left.count() <= 0 || (got < 0 && errno != EINTR)) return false;
  }
  return false;
}

bool BoundedStream::fill(Clock::time_point until) {
  std::array<char, 4096> piece{};
  if (!is_ready(POLLIN, until, /*may_stop=*/true)) return false;
  const auto got = ::recv(socket_, piece.data(), piece.size(), 0);
  has_closed_ = got <= 0;
  if (!has_closed_) come_.append(piece.data(), static_cast<size_t>(got));
  return !has_closed_;
}

bool BoundedStream::has_request() {
  const auto patience = left_ == 0 ? limits_.head : limits_.idle;  // 0: it is the first
  return begin_ < come_.size() || is_ready(POLLIN, Clock::now() + patience, /*may_stop=*/true);
}

int BoundedStream::read_head() {
  constexpr std::string_view kEnd = "\r\n\r\n";
  const auto until = Clock::now() + limits_.head;
  come_.erase(0, std::exchange(begin_, 0));
  is_last_ = true;
  answer_deadline_.reset();
  size_t end = come_.find(kEnd);
  while (end == come_.npos) {
    if (come_.size() > limits_.head_bytes) return 431;
    const size_t known = come_.size();
    if (!fill(until)) return !has_closed_ ? 408 : come_.empty() ? -1 : 400;
    end = come_.find(kEnd, known < kEnd.size() ? 0 : known - kEnd.size());
  }
  left_ = end + kEnd.size();
  if (left_ > limits_.head_bytes) return 431;
  erase_ranges();
  is_last_ = false;
  return 0;
}

void BoundedStream::erase_ranges() {
  constexpr std::string_view kRange = "range:";
  // by lines as httplib has them; the last is the empty one
  for (size_t line = come_.find('\n') + 1; line + kRange.size() < left_;) {
    const size_t next = come_.find('\n', line) + 1;
    const std::string_view start(come_.data() + line, kRange.size());
    const bool is_range =
        std::ranges::equal(start, kRange, {}, [](unsigned char c) { return std::tolower(c); });
    if (is_range) {
      come_.erase(line, next - line);
      left_ -= next - line;
    } else {
      line = next;
    }
  }
}

void BoundedStream::expect_body() {
  left_ = 2 * limits_.body_bytes + limits_.head_bytes;
  body_deadline_ = Clock::now() + limits_.body;
}

void BoundedStream::finish(std::chrono::milliseconds patience) {
  ::shutdown(socket_, SHUT_WR);
  const auto until = Clock::now() + patience;
  for (size_t unread = 0; unread < kMostUnread; unread += come_.size()) {
    come_.clear();
    if (!fill(until)) return;
  }
}

bool BoundedStream::is_readable() const {
  return begin_ < come_.size() || is_ready(POLLIN, body_deadline_, /*may_stop=*/true);
}

bool BoundedStream::is_writable() const {
  return is_ready(POLLOUT, Clock::now() + limits_.pause, /*may_stop=*/false);
}

ssize_t BoundedStream::read(char* to, size_t size) {
  if (begin_ == come_.size() && left_ > 0) {
    come_.clear();
    begin_ = 0;
    fill(std::min(body_deadline_, Clock::now() + limits_.pause));
  }
  const size_t count = std::min({size, come_.size() - begin_, left_});
  if (count == 0) {
    is_last_ = true;
    return -1;
  }
  std::memcpy(to, come_.data() + begin_, count);
  begin_ += count;
  left_ -= count;
  return static_cast<ssize_t>(count);
}

ssize_t BoundedStream::write(const char* from, size_t size) {
  const std::string_view text(from, size);
  if (text.starts_with("HTTP/1.1 ") && text.find("\r\nConnection: close\r\n") != text.npos)
    is_last_ = true;
  if (!answer_deadline_) answer_deadline_ = Clock::now() + limits_.answer;
  const auto until = std::min(*answer_deadline_, Clock::now() + limits_.pause);
  if (!is_ready(POLLOUT, until, /*may_stop=*/false)) return -1;
  const auto sent = ::send(socket_, from, size, MSG_NOSIGNAL | MSG_DONTWAIT);
  return sent < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : sent;
}

void BoundedStream::get_remote_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getpeername(socket_, reinterpret_cast<sockaddr*>(&address), &size) == 0)
    numbers_of(address, size, ip, port);
}

void BoundedStream::get_local_ip_and_port(std::string& ip, int& port) const {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size) == 0)
    numbers_of(address, size, ip, port);
}

}  // namespace kvsmith
