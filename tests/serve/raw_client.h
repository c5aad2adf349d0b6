#pragma once

#include <array>
#include <cerrno>
#include <string>
#include <string_view>

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace kvsmith {

/// A connection to this machine that carries whatever bytes; gives up after 20 seconds of silence.
class RawClient {
 public:
  explicit RawClient(int port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    const timeval patience{20, 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  }
  ~RawClient() { leave(); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  /// False once the other end takes nothing more.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  /// All that comes until the other end closes; an asterisk at its end where it does not.
  std::string rest() {
    std::string out;
    std::array<char, 4096> part{};
    while (true) {
      const auto got = ::recv(socket_, part.data(), part.size(), 0);
      if (got == 0) return out;
      if (got < 0) return errno == EAGAIN ? out + "*" : out;
      out.append(part.data(), static_cast<size_t>(got));
    }
  }
  std::string answer_to(std::string_view bytes) {
    send(bytes);
    return rest();
  }
  void leave() {
    if (socket_ >= 0) ::close(socket_);
    socket_ = -1;
  }

 private:
  int socket_;
};

}  // namespace kvsmith
