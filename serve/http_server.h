#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "serve/engine.h"

namespace kvsmith {

struct HttpOptions {
  std::string host = "127.0.0.1";
  int port = 8000;                    ///< 0: any that is free
  std::string api_key = {};           ///< empty: none is asked for
  std::string model_name = {};        ///< to clients; empty: that of the checkpoint
  int64_t max_body = 1 << 20;         ///< bytes
  int64_t max_tokens = 0;             ///< that a request may ask for; 0: as many as the context has
  int64_t max_connections = 64;       ///< served at a time; as many again wait
  std::chrono::seconds timeout{600};  ///< of one request
};

/// OpenAI's HTTP interface to an engine: /v1/completions, /v1/chat/completions, /v1/models,
/// /health and /metrics. A client that leaves takes its texts with it.
class HttpServer {
 public:
  /// The engine outlives this object. Throws Error: 64 where two models have one name, 71 without
  /// threads for the connections.
  HttpServer(Engine& engine, const HttpOptions& options);
  /// As stop() without grace.
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  /// Listens, and answers in threads of its own. Returns the port. Throws Error (73) where it is
  /// not to be had.
  int start();
  /// False once it can take no more connections: what is under way goes on, stop() ends it.
  bool is_listening() const;
  /// Refuses new work with 503, lets answers under way end within `grace`, then closes.
  void stop(std::chrono::milliseconds grace);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvsmith
