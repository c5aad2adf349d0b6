#pragma once

#include <string>

namespace kvsmith {

/// The connection that a request has come by, looked at while its answer is being made.
class Connection {
 public:
  /// Finds it among the sockets of this process by its other end.
  Connection(const std::string& remote_address, int remote_port);

  /// The other end has closed it, or half of it. False where the connection was not found.
  bool has_closed() const;

 private:
  int socket_ = -1;
};

}  // namespace kvsmith
