#include <chrono>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "cache/cache_options.h"
#include "checkpoints/adapters.h"
#include "core/error.h"
#include "core/process.h"
#include "core/text.h"
#include "serve/http_server.h"
#include "tools/byte_size.h"
#include "tools/model_flags.h"
#include "tools/verbs.h"

namespace kvsmith {
namespace {

constexpr const char* kKeyVariable = "KVSMITH_API_KEY";
constexpr int64_t kMostConnections = 1024;

struct Flags {
  ModelFlags model;
  std::vector<std::string> adapters, cache;
  std::string cache_budget = "1GiB", max_body = "1MiB";
  int64_t timeout_seconds = 600, grace_seconds = 25;
  EngineOptions engine;
  HttpOptions http;
};

void serve_it(Flags& flags) {
  if (!flags.cache.empty()) flags.engine.cache = cache_config_of(flags.cache);
  flags.engine.cache_budget = parse_bytes(flags.cache_budget, "--cache-budget");
  flags.http.max_body = parse_bytes(flags.max_body, "--max-body");
  flags.http.timeout = std::chrono::seconds(flags.timeout_seconds);
  const char* key = std::getenv(kKeyVariable);
  if (flags.http.api_key.empty() && key) flags.http.api_key = key;

  LoadedModel model = load(flags.model);
  auto adapters = load_adapters(model, flags.adapters);
  const StopSignals signals;
  Engine engine(model, flags.engine, std::move(adapters));
  HttpServer server(engine, flags.http);
  const int port = server.start();
  std::cerr << "serving on http://" << flags.http.host << ":" << port << "/v1, caches within "
            << human_bytes(static_cast<double>(flags.engine.cache_budget))
            << (flags.http.api_key.empty() ? ", for everyone who can reach it" : "") << std::endl;
  while (StopSignals::requested() == 0 && server.is_listening())
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const bool is_asked_to = StopSignals::requested() != 0;
  std::cerr << "stopping: at most " << flags.grace_seconds << " s for answers under way"
            << std::endl;
  server.stop(std::chrono::seconds(flags.grace_seconds));
  if (is_asked_to) return;
  throw Error(ExitCode::kIo,
              {"no longer accepts connections", cat(flags.http.host, ":", port), "start it again"});
}

}  // namespace

void add_serve(CLI::App& app) {
  auto* verb = app.add_subcommand("serve", "Answer OpenAI's API over HTTP, caches within a budget");
  auto flags = std::make_shared<Flags>();
  add_model_flags(*verb, flags->model);
  verb->add_option("--port", flags->http.port, "to listen on; 0: any that is free")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  verb->add_option("--host", flags->http.host, "address to listen on")->capture_default_str();
  verb->add_option("--api-key", flags->http.api_key,
                   cat("that clients must know; better in the environment, as ", kKeyVariable));
  verb->add_option("--model-name", flags->http.model_name,
                   "of the model, to clients; default: the checkpoint's");
  add_adapter_flag(*verb, flags->adapters, "; answers where a request gives its name as `model`");
  add_cache_flag(*verb, flags->cache);
  verb->add_option("--cache-budget", flags->cache_budget, "bytes of all caches together")
      ->capture_default_str();
  const auto count = [&](const char* name, int64_t& value, int64_t least, const char* help,
                         int64_t most = int64_t{1} << 30) {
    verb->add_option(name, value, help)->check(CLI::Range(least, most))->capture_default_str();
  };
  count("--max-sequences", flags->engine.max_sequences, 1, "texts in one step");
  count("--max-queued", flags->engine.max_queued, 1, "texts that wait for room");
  count("--prefill-chunk", flags->engine.prefill_chunk, 1,
        "tokens of a prompt read between two steps, where that changes nothing");
  verb->add_option("--max-body", flags->max_body, "bytes of a request")->capture_default_str();
  count("--max-tokens", flags->http.max_tokens, 0,
        "new tokens that a request may ask for; 0: as many as the context has");
  count("--max-connections", flags->http.max_connections, 1,
        "served at a time, by a thread each; as many again wait", kMostConnections);
  count("--timeout", flags->timeout_seconds, 1, "seconds that a request may take");
  count("--grace", flags->grace_seconds, 0, "seconds for answers under way after SIGTERM");
  verb->footer(
      "Example:\n"
      "  kvsmith serve runs/gqa --cache keyformer budget_tokens=512 --cache-budget 2GiB\n"
      "  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' \\\n"
      "    -d '{\"prompt\": \"Once upon a time\", \"max_tokens\": 50}'");
  verb->callback([flags] { serve_it(*flags); });
}

}  // namespace kvsmith
