#include <array>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "cache/cache_options.h"
#include "core/error.h"
#include "core/files.h"
#include "core/text.h"
#include "evaluate/decode_speed.h"
#include "evaluate/result_file.h"
#include "tools/byte_size.h"
#include "tools/model_flags.h"
#include "tools/verbs.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

struct Flags {
  ModelFlags model;
  std::vector<std::string> methods = {"full"};
  std::vector<int64_t> contexts = {512};
  SpeedOptions speed;
  std::string memory_text;
  int64_t memory = 0;  ///< bytes; 0: not given
  std::filesystem::path json;
  bool first_token = false, force = false;
};

/// The same number of rows and the same codecs, without looking at scores.
std::optional<CacheConfig> control_of(const CachePlan& plan) {
  const RetentionKind* policy = policy_of(plan.config().retention);
  if (!policy || policy->name == "window" || policy->after_prompt_only) return {};
  CacheConfig control = plan.config();
  control.retention = "window";
  control.budget_fraction = 0;
  control.budget_bytes = 0;
  control.budget_tokens = plan.budget();
  control.protect_recent = 0;  // the newest stay anyway
  return control;
}

/// Of one method at one context.
Json measured(DecoderImpl& model, const CachePlan& plan, const Flags& flags, int64_t context) {
  SpeedOptions options = flags.speed;
  options.context = context;
  const DecodeSpeed one = decode_speed(model, plan, options);
  Json out = {{"method", method_name(plan)},
              {"context", context},
              {"batch", options.batch},
              {"seconds_p50", one.percentile(0.5)},
              {"seconds_p95", one.percentile(0.95)},
              {"tokens_per_second", one.tokens_per_second()},
              {"resident_bytes", one.resident_bytes},
              {"reserved_bytes", one.reserved_bytes}};
  if (const auto config = control_of(plan)) {
    const CachePlan control(*config, model.config(), model.compute_type(), context);
    const double without = decode_speed(model, control, options).percentile(0.5);
    out["policy_share"] = 1 - without / one.percentile(0.5);
  }
  if (flags.first_token) out["first_token_seconds"] = first_token_seconds(model, plan, context);
  if (flags.memory == 0) return out;

  const auto many = largest_batch_speed(model, plan, options, flags.memory);
  out["max_batch"] = {{"memory_bytes", flags.memory}, {"batch", many ? many->batch : 0}};
  if (!many) return out;
  out["max_batch"]["resident_bytes"] = many->resident_bytes * many->batch;
  out["max_batch"]["reserved_bytes"] = many->reserved_bytes;
  out["max_batch"]["seconds_p50"] = many->percentile(0.5);
  out["max_batch"]["tokens_per_second"] = many->tokens_per_second();
  return out;
}

std::string line_of(const Json& point) {
  const auto number = [&](const Json& json, const char* key) {
    return json.contains(key) ? json[key].get<double>() : 0;
  };
  std::array<char, 200> line{};
  std::snprintf(line.data(), line.size(), "%-34s %7lld %10.2f %10.2f %9.1f %11s",
                point["method"].get<std::string>().c_str(),
                static_cast<long long>(point["context"].get<int64_t>()),
                1e3 * number(point, "seconds_p50"), 1e3 * number(point, "seconds_p95"),
                number(point, "tokens_per_second"),
                human_bytes(number(point, "resident_bytes")).c_str());
  std::string out = line.data();
  const auto add = [&](const char* format, bool is_there, double value) {
    std::snprintf(line.data(), line.size(), format, value);
    out += is_there ? std::string(line.data()) : std::string("          -");
  };
  add(" %9.0f%%", point.contains("policy_share"), 100 * number(point, "policy_share"));
  add(" %10.2f", point.contains("first_token_seconds"), number(point, "first_token_seconds"));
  const Json many = point.value("max_batch", Json::object());
  add(" %10.0f", many.contains("batch"), number(many, "batch"));
  add(" %10.1f", many.contains("tokens_per_second"), number(many, "tokens_per_second"));
  return out;
}

void speed(Flags& flags) {
  if (!flags.memory_text.empty()) flags.memory = parse_bytes(flags.memory_text);
  if (!flags.json.empty()) expect_writable(flags.json, flags.force);
  LoadedModel loaded = load(flags.model);
  DecoderImpl& model = *loaded.model;
  // a method that cannot be is refused before anything is timed
  std::vector<CachePlan> plans;
  for (const int64_t context : flags.contexts)
    for (const auto& method : flags.methods)
      plans.emplace_back(cache_config_of(words_of(method)), model.config(), model.compute_type(),
                         context);
  std::cout
      << "method                             context     p50 ms     p95 ms  tokens/s    resident"
         "     policy    first s  max batch   tokens/s\n";
  Json out = {{"name", loaded.name},
              {"architecture", architecture_name(model.config())},
              {"parameters", model.parameter_count()},
              {"dtype", flags.model.dtype},
              {"device", model.device().str()},
              {"version", KVSMITH_VERSION}};
  for (size_t i = 0; i < plans.size(); ++i) {
    const int64_t context = flags.contexts[i / flags.methods.size()];
    out["points"].push_back(measured(model, plans[i], flags, context));
    std::cout << line_of(out["points"].back()) << std::endl;
  }
  if (!flags.json.empty()) write_result(flags.json, out);
}

}  // namespace

void add_speed(CLI::App& app) {
  auto* verb = app.add_subcommand("speed", "Time decoding behind cache methods");
  auto flags = std::make_shared<Flags>();
  add_model_flags(*verb, flags->model);
  verb->add_option("--method", flags->methods,
                   "words of `evaluate --cache`, such as \"full\" or \"keyformer "
                   "budget_fraction=0.5 q8_0\"; may be repeated")
      ->take_all()
      ->capture_default_str();
  verb->add_option("--context", flags->contexts, "tokens in the cache; may be repeated")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->take_all()
      ->capture_default_str();
  verb->add_option("--tokens", flags->speed.tokens, "tokens to decode and time")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  verb->add_option("--batch", flags->speed.batch, "sequences side by side")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  verb->add_option("--memory", flags->memory_text,
                   "also time the largest batch whose cache fits into so much, such as 1GiB");
  verb->add_flag("--first-token", flags->first_token,
                 "also time the first token behind a prompt of the context");
  verb->add_option("--json", flags->json, "file for the figures");
  verb->add_flag("--force", flags->force, "replace the file");
  verb->footer(
      "The policy's share is what the step takes longer than with a window of as many rows.\n"
      "Example:\n"
      "  kvsmith speed runs/gqa --method full --method \"keyformer budget_fraction=0.5\" "
      "--context 2048 --context 8192 --memory 1GiB");
  verb->callback([flags] { speed(*flags); });
}

}  // namespace kvsmith
