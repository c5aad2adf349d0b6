#include "serve/http_server.h"

#include <algorithm>
#include <atomic>
#include <deque>
#include <exception>
#include <functional>
#include <optional>
#include <random>
#include <set>
#include <thread>
#include <utility>

#include <httplib.h>
#include <nlohmann/json.hpp>
#include <openssl/crypto.h>
#include <sys/socket.h>

#include "core/error.h"
#include "core/hash.h"
#include "core/text.h"
#include "inference/chat.h"
#include "serve/api_request.h"
#include "serve/bounded_server.h"
#include "serve/exchange.h"
#include "serve/request_fields.h"

namespace kvsmith {
namespace {

constexpr auto kJson = "application/json";
constexpr auto kEvents = "text/event-stream";
constexpr std::chrono::seconds kLastWords{5};  // for answers that are over to be written

void answer(httplib::Response& response, int status, const nlohmann::ordered_json& json) {
  response.status = status;
  response.set_content(dumped(json), kJson);
}

void refuse(httplib::Response& response, const Failure& failure, const std::string& field = "") {
  answer(response, failure.status, error_json(failure, field));
  response.set_header("Connection", "close");  // of its request, not all may have been read
  if (failure.status == 401) response.set_header("WWW-Authenticate", "Bearer");
  if (failure.status == 429 || failure.status == 503) response.set_header("Retry-After", "1");
}

/// What an Error that a request has caused is to its client.
Failure failure_of(const Error& error) {
  const auto what = printable(error.what());
  switch (error.code()) {
    case ExitCode::kUsage:
    case ExitCode::kBadData:
      return {400, what, "invalid_value"};
    case ExitCode::kMissingInput:
      return {404, what, "model_not_found"};
    default:
      return {500, what, "internal_error"};
  }
}

/// Binds to a port that nobody else has: httplib would share it.
void reuse_address(socket_t socket) {
  const int yes = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(Engine& engine, const HttpOptions& options)
      : engine_(engine),
        options_(options),
        // as httplib gives what is sent in a header: without its percent signs
        key_(sha256(httplib::detail::decode_url(options.api_key, false))),
        server_({.at_once = static_cast<size_t>(options.max_connections),
                 .body_bytes = static_cast<size_t>(options.max_body),
                 .answer = 2 * options.timeout + kLastWords}) {
    const LoadedModel& base = engine.model();
    add_context(base, options.model_name.empty() ? base.name : options.model_name);
    for (const auto& adapter : engine.adapters()) add_context(adapter, adapter.name);
    server_.set_tcp_nodelay(true);
    server_.set_socket_options(reuse_address);
    set_routes();
  }
  ~Impl() { stop(std::chrono::milliseconds(0)); }

  int start() {
    const bool any = options_.port == 0;
    const int port = any ? server_.bind_to_any_port(options_.host)
                     : server_.bind_to_port(options_.host, options_.port) ? options_.port
                                                                          : -1;
    if (port < 0) {
      throw Error(ExitCode::kCannotCreate,
                  {"cannot listen", cat(options_.host, ":", options_.port),
                   "choose another --port, or a --host that this machine has"});
    }
    server_.lengthen_backlog();
    thread_ = std::thread([this] { server_.listen_after_bind(); });
    while (!server_.is_running()) std::this_thread::yield();
    return port;
  }

  bool is_listening() const { return server_.is_listening(); }

  void stop(std::chrono::milliseconds grace) {
    engine_.stop(grace);
    if (!thread_.joinable()) return;
    const auto until = std::chrono::steady_clock::now() + kLastWords;
    while (server_.answering() > 0 && std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));  // else streams would break off
    server_.stop();
    thread_.join();
  }

 private:
  using Request = httplib::Request;
  using Response = httplib::Response;

  void add_context(const LoadedModel& model, const std::string& name) {
    if (std::ranges::count(contexts_, name, &ApiContext::name) > 0)
      throw Error(ExitCode::kUsage,
                  {"two models are named " + in_quotes(name), "--adapter", "write NAME=PATH"});
    ApiContext& context =
        contexts_.emplace_back(ApiContext{.model = model,
                                          .number = contexts_.size(),
                                          .name = name,
                                          .max_tokens = options_.max_tokens,
                                          .longest_prompt = longest_prompt(model)});
    try {
      context.chat = &chats_.emplace_back(model);
    } catch (const Error& error) {
      context.chat_problem = error.what();
    }
  }

  nlohmann::ordered_json models() const {
    auto list = nlohmann::ordered_json::array();
    for (const ApiContext& context : contexts_) {
      list.push_back({{"id", context.name},
                      {"object", "model"},
                      {"created", 0},
                      {"owned_by", "kvsmith"},
                      {"max_model_len", context.model.model->config().max_position_embeddings}});
      if (context.number > 0) list.back()["parent"] = contexts_.front().name;
    }
    return {{"object", "list"}, {"data", list}};
  }

  void set_routes() {
    server_.set_pre_routing_handler([this](const Request& request, Response& response) {
      const auto fault = server_.fault_of(request);
      if (fault) invalid(response, *fault);
      // httplib would read the body of a path that there is not
      const bool has_no_place = request.method != "GET" && request.method != "HEAD" &&
                                (request.method != "POST" || !posts_.contains(request.path));
      if (!fault && has_no_place) response.status = 404;
      using Result = httplib::Server::HandlerResponse;
      return fault || has_no_place ? Result::Handled : Result::Unhandled;
    });
    server_.Get("/health", [this](const Request&, Response& response) {
      const bool is_well = engine_.is_accepting();
      answer(response, is_well ? 200 : 503, {{"status", is_well ? "ok" : "stopping"}});
    });
    server_.Get("/metrics", guarded([this](const Request&, Response& response) {
                  response.set_content(engine_.metrics().text(), "text/plain; version=0.0.4");
                }));
    server_.Get("/v1/models", guarded([this](const Request&, Response& response) {
                  answer(response, 200, models());
                }));
    set_post("/v1/completions", completion_request, "cmpl-");
    set_post("/v1/chat/completions", chat_request, "chatcmpl-");
    server_.set_exception_handler(
        [](const Request&, Response& response, const std::exception_ptr&) {
          refuse(response, {500, "something broke in the server", "internal_error"});
        });
    server_.set_error_handler([](const Request& request, Response& response) {
      if (!response.body.empty()) return;
      const char* what = response.status == 404   ? "there is no such path"
                         : response.status == 413 ? "the body is too long"
                                                  : "the request cannot be read";
      refuse(response,
             {response.status, cat(what, ": ", request.method, " ", printable(request.path)), ""});
    });
  }

  /// A handler that only those who know the key reach.
  httplib::Server::Handler guarded(httplib::Server::Handler handler) {
    return [this, handler = std::move(handler)](const Request& request, Response& response) {
      if (knows_key(request)) return handler(request, response);
      engine_.metrics().count_outcome("unauthorized");
      refuse(response, {401, "the API key is missing or wrong", "invalid_api_key"});
    };
  }

  /// Compared in constant time, as digests, so that not even the length of the key shows.
  bool knows_key(const Request& request) const {
    if (options_.api_key.empty()) return true;
    constexpr std::string_view kScheme = "Bearer ";
    const auto given = request.headers.find("Authorization");  // all of it, a NUL would end a value
    if (given == request.headers.end() || !given->second.starts_with(kScheme)) return false;
    const auto digest = sha256(std::string_view(given->second).substr(kScheme.size()));
    return CRYPTO_memcmp(digest.data(), key_.data(), key_.size()) == 0;
  }

  using Read = ApiRequest (*)(const nlohmann::json&, const ApiContext&);

  void set_post(const std::string& path, Read read, const std::string& prefix) {
    posts_.insert(path);
    server_.Post(path, [this, read, prefix](const Request& request, Response& response,
                                            const httplib::ContentReader& reader) {
      guarded([&](const Request&, Response&) {
        // not what a form on a foreign page can send to a server on this machine
        if (!request.get_header_value("Content-Type").starts_with(kJson))
          return invalid(response, {415, "the Content-Type is not application/json", ""});
        if (const auto body = whole_body(request, reader, response))
          serve(request, response, *body, read, prefix);
      })(request, response);
    });
  }

  /// Nothing, and the response set, where it is too long, too slow or broken.
  std::optional<std::string> whole_body(const Request& request,
                                        const httplib::ContentReader& reader,
                                        Response& response) {
    std::string body;
    const auto most = static_cast<size_t>(options_.max_body);
    bool is_long = false;  // as it is without its chunks, or unpacked
    const bool is_whole = reader([&](const char* data, size_t size) {
      is_long = body.size() + size > most;
      if (!is_long) body.append(data, size);
      return !is_long;
    });
    if (is_whole) return body;
    if (is_long) {
      invalid(response, {413, cat("the body is longer than ", most, " bytes"), "body_too_long"});
    } else {
      const char* what = request.has_header("Transfer-Encoding")
                             ? "the chunks of the body are broken, have not come to their end, or "
                               "have trailers, which are not taken; send them without"
                             : "the body has not come to its end";
      invalid(response, {400, what, "incomplete_body"});
    }
    return {};
  }

  void serve(const Request& request,
             Response& response,
             const std::string& body,
             Read read,
             const std::string& prefix) {
    std::shared_ptr<Exchange> exchange;
    try {
      const auto json = parsed_request(body);
      const ApiContext& context = context_of(json, contexts_);
      auto asked = read(json, context);
      const auto places = engine_.options().max_queued;
      if (static_cast<int64_t>(asked.texts.size()) > places)
        refuse_field(cat("has ", asked.texts.size(), " texts, and at most ", places, " may wait"),
                     "prompt", "give fewer");
      for (auto& text : asked.texts) text.client = cat(request.remote_addr, " ", asked.user);
      exchange = std::make_shared<Exchange>(engine_, context, std::move(asked), prefix + new_id(),
                                            Connection(request.remote_addr, request.remote_port),
                                            Exchange::Clock::now() + options_.timeout);
    } catch (const nlohmann::json::exception& error) {
      return invalid(response, {400, printable(error.what()), "invalid_json"});
    } catch (const Error& error) {
      return invalid(response, failure_of(error), error.problem().where);
    }
    if (exchange->request().streams) return stream(request, response, exchange);
    while (!exchange->is_over()) exchange->wait();
    if (exchange->failure()) return refuse(response, *exchange->failure());
    answer(response, 200, exchange->writer().whole(exchange->answers()));
  }

  void invalid(Response& response, const Failure& failure, const std::string& field = "") {
    engine_.metrics().count_outcome("invalid");
    refuse(response, failure, field);
  }

  /// Server-sent events. Begins with the first part, so that what is refused has its own status.
  static void stream(const Request& request,
                     Response& response,
                     const std::shared_ptr<Exchange>& exchange) {
    auto events = exchange->wait();
    while (events.empty() && !exchange->is_over()) events = exchange->wait();
    if (exchange->failure()) return refuse(response, *exchange->failure());
    response.set_header("Cache-Control", "no-store");
    auto parts = [exchange, events = std::move(events), has_begun = false](
                     size_t /*offset*/, httplib::DataSink& sink) mutable {
      std::string text;
      const auto add = [&](const nlohmann::ordered_json& json) {
        if (!json.is_null()) text += "data: " + dumped(json) + "\n\n";
      };
      AnswerWriter& writer = exchange->writer();
      if (!std::exchange(has_begun, true)) add(writer.opening());
      for (const auto& event : std::exchange(events, {}))
        add(writer.part(event.index, event.fresh));
      const auto& failure = exchange->failure();
      if (failure) add(error_json(*failure));
      if (exchange->is_over() && !failure) {
        if (exchange->request().tells_usage) add(writer.usage_part(exchange->answers()));
        text += "data: [DONE]\n\n";
      }
      if (!text.empty() && !sink.write(text.data(), text.size())) return false;
      if (exchange->is_over()) {
        sink.done();
      } else {
        events = exchange->wait();
      }
      return true;
    };
    if (request.version == "HTTP/1.0") {  // knows no chunks: the connection ends with the stream
      response.set_header("Connection", "close");
      response.set_content_provider(kEvents, std::move(parts));
    } else {
      response.set_chunked_content_provider(kEvents, std::move(parts));
    }
  }

  std::string new_id() { return cat(std::hex, ids_from_, ++ids_); }

  Engine& engine_;
  HttpOptions options_;
  std::string key_;
  std::vector<ApiContext> contexts_;
  std::deque<Chat> chats_;       ///< stay where they are when more come
  std::set<std::string> posts_;  ///< paths
  BoundedServer server_;
  std::thread thread_;
  uint32_t ids_from_ = std::random_device()();
  std::atomic<uint64_t> ids_ = 0x100000;
};

HttpServer::HttpServer(Engine& engine, const HttpOptions& options)
    : impl_(std::make_unique<Impl>(engine, options)) {}

HttpServer::~HttpServer() = default;

int HttpServer::start() { return impl_->start(); }

bool HttpServer::is_listening() const { return impl_->is_listening(); }

void HttpServer::stop(std::chrono::milliseconds grace) { impl_->stop(grace); }

}  // namespace kvsmith
