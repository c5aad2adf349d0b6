#pragma once

#include <atomic>
#include <optional>

#include <httplib.h>

#include "serve/bounded_stream.h"
#include "serve/text_request.h"

namespace kvsmith {

/// httplib 0.11's server, which bounds neither the bytes and the time of a head nor the bytes of a
/// body in chunks, and which goes on with a connection after a body that was not read: here each
/// connection has limits, and an answer that says `Connection: close` ends it.
class BoundedServer : public httplib::Server {
 public:
  /// Throws Error (71) where the threads of the connections are not to be had.
  explicit BoundedServer(const ConnectionLimits& limits);

  /// For use after a port is bound: lets a crowd of clients connect at the same moment.
  void lengthen_backlog();
  /// Takes connections: httplib gives up for good at most failures of accept(), and what it was
  /// answering by then goes on. Callable from any thread.
  bool is_listening() const { return is_running() && !has_ended_; }
  /// Requests between their heads and the ends of their answers.
  int answering() const { return answering_; }
  /// What is wrong with how the body of a request is announced, before any of it is read. Whatever
  /// a proxy might understand in another way is refused.
  std::optional<Failure> fault_of(const httplib::Request& request) const;

 private:
  bool process_and_close_socket(socket_t socket) override;
  /// The next request of a connection. False where it is the last.
  bool answer_next(BoundedStream& stream, bool may_go_on);

  ConnectionLimits limits_;
  std::atomic<bool> has_ended_ = false;
  std::atomic<int> answering_ = 0;
};

}  // namespace kvsmith
