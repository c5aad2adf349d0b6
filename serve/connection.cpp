#include "serve/connection.h"

#include <array>
#include <filesystem>
#include <string>

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

namespace kvsmith {
namespace {

bool leads_to(int socket, const std::string& address, const std::string& port) {
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  auto* any = reinterpret_cast<sockaddr*>(&peer);
  if (::getpeername(socket, any, &size) != 0) return false;
  if (peer.ss_family != AF_INET && peer.ss_family != AF_INET6) return false;
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> service{};
  if (::getnameinfo(any, size, host.data(), host.size(), service.data(), service.size(),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return false;
  return address == host.data() && port == service.data();
}

}  // namespace

Connection::Connection(const std::string& remote_address, int remote_port) {
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", ignored)) {
    const int socket = std::stoi(entry.path().filename().string());
    if (leads_to(socket, remote_address, std::to_string(remote_port))) {
      socket_ = socket;
      return;
    }
  }
}

bool Connection::has_closed() const {
  if (socket_ < 0) return false;
  pollfd one{socket_, POLLRDHUP, 0};  // what was sent before and not read would hide an end of file
  return ::poll(&one, 1, 0) > 0;
}

}  // namespace kvsmith
