#include "tools/estimate.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>

#include "core/error.h"
#include "core/text.h"
#include "models/footprint.h"
#include "models/mixer.h"
#include "tools/byte_size.h"
#include "tools/verbs.h"
#include "train/run.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kLong = 1 << 20;  ///< tokens: beyond every window

struct Flags {
  std::vector<std::filesystem::path> configs;
  std::vector<std::string> assignments;
  std::string memory;
  std::vector<int64_t> contexts;
  bool json = false;
};

/// Who reads whose keys and values, one line a layer. "^" marks a layer that reads ahead, "+ 1K 2V"
/// heads that it takes from the layer below.
std::string drawing(const Json& layers) {
  std::string out = cat(
      "\n", "layer  kind           reads           heads  bytes/token   constant       at 8k\n");
  for (const Json& layer : layers) {
    const auto number = [&](const char* key) { return layer[key].get<int64_t>(); };
    const int64_t i = number("layer"), k = number("k_source"), v = number("v_source");
    std::string kind = layer["kind"].get<std::string>();
    if (number("window") > 0) kind += cat(" ", number("window"));
    if (number("sinks") > 0) kind += cat("+", number("sinks"));
    std::string reads = k == v ? (k == i ? "itself" : cat("layer ", k)) : cat("K ", k, ", V ", v);
    if (std::max(k, v) > i) reads += " ^";
    if (!layer["reused_keys"].empty() || !layer["reused_values"].empty())
      reads += cat(" + ", layer["reused_keys"].size(), "K ", layer["reused_values"].size(), "V");
    const auto bytes = [&](const char* key) {
      return number(key) == 0 ? "-" : human_bytes(layer[key].get<double>());
    };
    std::array<char, 160> line{};
    std::snprintf(line.data(), line.size(), "%5lld  %-13s  %-14s  %5lld  %11s  %9s  %10s\n",
                  static_cast<long long>(i), kind.c_str(), reads.c_str(),
                  static_cast<long long>(number("kv_heads")), bytes("bytes_per_token").c_str(),
                  bytes("bytes_constant").c_str(), bytes("bytes_at_8k").c_str());
    out += line.data();
  }
  return out;
}

void estimate(const Flags& flags) {
  RunConfig config = load_run_config(flags.configs, flags.assignments);
  if (config.model.vocab_size == 0) take_vocabulary(config);
  Serving serving;
  if (!flags.memory.empty()) serving.memory_bytes = parse_bytes(flags.memory);
  if (!flags.contexts.empty()) serving.contexts = flags.contexts;
  std::cout << (flags.json ? estimate_json(config, serving).dump(2) + "\n"
                           : estimate_text(config, serving));
}

/// Of weights and cached elements.
int64_t element_bytes(const RunConfig& config) { return config.train.precision == "bf16" ? 2 : 4; }

}  // namespace

void take_vocabulary(RunConfig& config) {
  for (const auto& corpus : config.data.corpus) {
    if (std::filesystem::exists(corpus)) continue;
    throw Error(ExitCode::kMissingInput,
                {"no such corpus", corpus,
                 "build it with `kvsmith data build`, or give --set model.vocab_size=N"});
  }
  take_from_corpus(config);
}

Json estimate_json(const RunConfig& config, const Serving& serving) {
  const auto& m = config.model;
  const auto& t = config.train;
  const auto size = model_footprint(m);
  const auto training = training_footprint(config);
  const int64_t element = element_bytes(config);
  const int64_t bytes = kv_cache_bytes(m, kLong, element);
  const int64_t growth = kv_cache_bytes(m, kLong + 1, element) - bytes;
  Json json = {{"architecture", architecture_name(m)},
               {"parameters", size.parameters},
               {"training",
                {{"weights_bytes", training.weights},
                 {"gradients_bytes", training.gradients},
                 {"optimizer_bytes", training.optimizer},
                 {"activations_bytes", training.activations},
                 {"total_bytes", training.total()},
                 {"flops_per_token", training_flops_per_token(m, t.sequence_length)},
                 {"steps", t.total_steps()},
                 {"tokens_per_step", t.tokens_per_step()},
                 {"tokens", t.total_steps() * t.tokens_per_step()}}},
               {"cache",
                {{"dtype", t.precision},
                 {"bytes_per_token", growth},
                 {"bytes_constant", bytes - growth * kLong},
                 {"contexts", Json::array()}}}};
  const KvGraph graph(m);
  for (int64_t i = 0; i < graph.size(); ++i) {
    const LayerSpec& spec = graph[i];
    const int64_t layer_bytes = layer_cache_bytes(m, graph, i, kLong, element);
    const int64_t layer_growth = layer_cache_bytes(m, graph, i, kLong + 1, element) - layer_bytes;
    json["layers"].push_back({{"layer", i},
                              {"kind", spec.kind},
                              {"k_source", spec.k_source},
                              {"v_source", spec.v_source},
                              {"kv_heads", spec.kv_heads},
                              {"window", spec.window},
                              {"sinks", spec.sinks},
                              {"reused_keys", spec.reused_keys},
                              {"reused_values", spec.reused_values},
                              {"rope_theta", spec.rope_theta},
                              {"bytes_per_token", layer_growth},
                              {"bytes_constant", layer_bytes - layer_growth * kLong},
                              {"bytes_at_8k", layer_cache_bytes(m, graph, i, 8192, element)}});
  }
  for (const int64_t context : serving.contexts) {
    const int64_t at_context = kv_cache_bytes(m, context, element);
    Json row = {{"tokens", context}, {"bytes", at_context}};
    if (serving.memory_bytes > 0)
      row["max_batch"] =
          std::max<int64_t>(0, (serving.memory_bytes - size.parameters * element) / at_context);
    json["cache"]["contexts"].push_back(row);
  }
  return json;
}

std::string estimate_text(const RunConfig& config, const Serving& serving) {
  const Json json = estimate_json(config, serving);
  const Json& training = json["training"];
  const auto bytes = [](const Json& value) { return human_bytes(value.get<double>()); };
  std::string out;
  out += cat("model      ", json["architecture"].get<std::string>(), ", ",
             human_count(json["parameters"].get<double>()), " parameters (",
             json["parameters"].get<int64_t>(), ")\n");
  out += cat("training   ", bytes(training["total_bytes"]), ": weights ",
             bytes(training["weights_bytes"]), ", gradients ", bytes(training["gradients_bytes"]),
             ", optimizer ", bytes(training["optimizer_bytes"]), ", activations ",
             bytes(training["activations_bytes"]), "\n");
  out += cat("compute    ", human_flop(training["flops_per_token"].get<double>()), " a token\n");
  out += cat("budget     ", training["steps"].get<int64_t>(), " steps of ",
             training["tokens_per_step"].get<int64_t>(),
             " tokens = ", human_count(training["tokens"].get<double>()), " tokens\n");
  out += cat("KV cache   ", json["cache"]["bytes_per_token"].get<int64_t>(), " bytes a token and ",
             json["cache"]["bytes_constant"].get<int64_t>(), " for any text, in ",
             json["cache"]["dtype"].get<std::string>(), "\n");
  for (const auto& row : json["cache"]["contexts"]) {
    out += cat("           ", row["tokens"].get<int64_t>(), " tokens: ", bytes(row["bytes"]));
    if (row.contains("max_batch")) out += cat(", largest batch ", row["max_batch"].get<int64_t>());
    out += "\n";
  }
  const int64_t weights = json["parameters"].get<int64_t>() * element_bytes(config);
  if (serving.memory_bytes > 0 && weights > serving.memory_bytes) {
    out += cat("           the weights alone take ", human_bytes(static_cast<double>(weights)),
               " and do not fit in ", human_bytes(static_cast<double>(serving.memory_bytes)), "\n");
  }
  return out + drawing(json["layers"]);
}

void add_estimate(CLI::App& app) {
  auto* verb =
      app.add_subcommand("estimate", "What a configuration costs: memory, compute, KV cache");
  auto flags = std::make_shared<Flags>();
  verb->add_option("config", flags->configs, "TOML files; later ones win")->required();
  verb->add_option("--set", flags->assignments, "section.key=value; may be repeated")->take_all();
  verb->add_option("--memory", flags->memory,
                   "memory for weights and cache when serving, with its unit: 24GiB");
  verb->add_option("--context", flags->contexts,
                   "tokens of text to tell the cache of; may be repeated; default: 2048 to 131072")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->take_all();
  verb->add_flag("--json", flags->json, "print JSON");
  verb->footer("Example:\n  kvsmith estimate configs/gqa-1b.toml --memory 24GiB");
  verb->callback([flags] { estimate(*flags); });
}

}  // namespace kvsmith
