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
#include "tools/verbs.h"
#include "train/run.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::array<int64_t, 4> kContexts = {2048, 8192, 32768, 131072};

struct Flags {
  std::vector<std::filesystem::path> configs;
  std::vector<std::string> assignments;
  std::string memory;
  bool json = false;
};

/// "24GiB", "80GB", "1000000".
int64_t parse_bytes(const std::string& text) {
  static const std::vector<std::pair<std::string, double>> units = {{"", 1},
                                                                    {"B", 1},
                                                                    {"KB", 1e3},
                                                                    {"MB", 1e6},
                                                                    {"GB", 1e9},
                                                                    {"TB", 1e12},
                                                                    {"KiB", 1024.0},
                                                                    {"MiB", 1048576.0},
                                                                    {"GiB", 1073741824.0},
                                                                    {"TiB", 1099511627776.0}};
  size_t end = 0;
  double number = 0;
  try {
    number = std::stod(text, &end);
  } catch (const std::exception&) {
    end = 0;
  }
  for (const auto& [unit, factor] : units) {
    constexpr double kMost = 1e18;
    if (end > 0 && number >= 0 && number * factor < kMost && text.substr(end) == unit)
      return static_cast<int64_t>(number * factor);
  }
  throw Error(ExitCode::kUsage,
              {"cannot read \"" + text + "\"", "--memory", "write it as 24GiB or 80GB"});
}

/// Who reads whose keys and values, one line a layer. "^" marks a layer that reads ahead.
std::string drawing(const Json& layers) {
  std::string out = cat("\n", "layer  kind        reads           heads  bytes/token  at 8k\n");
  for (const Json& layer : layers) {
    const auto number = [&](const char* key) { return layer[key].get<int64_t>(); };
    const int64_t i = number("layer"), k = number("k_source"), v = number("v_source");
    std::string kind = layer["kind"].get<std::string>();
    if (number("window") > 0) kind += cat(" ", number("window"));
    if (number("sinks") > 0) kind += cat("+", number("sinks"));
    std::string reads = k == v ? (k == i ? "itself" : cat("layer ", k)) : cat("K ", k, ", V ", v);
    if (std::max(k, v) > i) reads += " ^";
    const int64_t bytes = number("bytes_per_token");
    std::array<char, 128> line{};
    std::snprintf(line.data(), line.size(), "%5lld  %-10s  %-14s  %5lld  %11s  %s\n",
                  static_cast<long long>(i), kind.c_str(), reads.c_str(),
                  static_cast<long long>(number("kv_heads")),
                  bytes == 0 ? "-" : std::to_string(bytes).c_str(),
                  bytes == 0 ? "-" : human_bytes(layer["bytes_at_8k"].get<double>()).c_str());
    out += line.data();
  }
  return out;
}

void estimate(const Flags& flags) {
  RunConfig config = load_run_config(flags.configs, flags.assignments);
  if (config.model.vocab_size == 0) take_from_corpus(config);
  const int64_t memory = flags.memory.empty() ? 0 : parse_bytes(flags.memory);
  std::cout << (flags.json ? estimate_json(config, memory).dump(2) + "\n"
                           : estimate_text(config, memory));
}

}  // namespace

Json estimate_json(const RunConfig& config, int64_t memory_bytes) {
  const auto& m = config.model;
  const auto& t = config.train;
  const auto size = model_footprint(m);
  const auto training = training_footprint(config);
  const int64_t element = t.precision == "bf16" ? 2 : 4;
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
                 {"bytes_per_token", kv_cache_bytes(m, 1, element)},
                 {"contexts", Json::array()}}}};
  const KvGraph graph(m);
  for (int64_t i = 0; i < graph.size(); ++i) {
    const LayerSpec& spec = graph[i];
    json["layers"].push_back({{"layer", i},
                              {"kind", spec.kind},
                              {"k_source", spec.k_source},
                              {"v_source", spec.v_source},
                              {"kv_heads", spec.kv_heads},
                              {"window", spec.window},
                              {"sinks", spec.sinks},
                              {"rope_theta", spec.rope_theta},
                              {"bytes_per_token", layer_cache_bytes(m, graph, i, 1, element)},
                              {"bytes_at_8k", layer_cache_bytes(m, graph, i, 8192, element)}});
  }
  for (const int64_t context : kContexts) {
    const int64_t bytes = kv_cache_bytes(m, context, element);
    Json row = {{"tokens", context}, {"bytes", bytes}};
    if (memory_bytes > 0)
      row["max_batch"] = std::max<int64_t>(0, (memory_bytes - size.parameters * element) / bytes);
    json["cache"]["contexts"].push_back(row);
  }
  return json;
}

std::string estimate_text(const RunConfig& config, int64_t memory_bytes) {
  const Json json = estimate_json(config, memory_bytes);
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
  out +=
      cat("compute    ", human_count(training["flops_per_token"].get<double>()), " FLOP a token\n");
  out += cat("budget     ", training["steps"].get<int64_t>(), " steps of ",
             training["tokens_per_step"].get<int64_t>(),
             " tokens = ", human_count(training["tokens"].get<double>()), " tokens\n");
  out += cat("KV cache   ", json["cache"]["bytes_per_token"].get<int64_t>(), " bytes a token in ",
             json["cache"]["dtype"].get<std::string>(), "\n");
  for (const auto& row : json["cache"]["contexts"]) {
    out += cat("           ", row["tokens"].get<int64_t>(), " tokens: ", bytes(row["bytes"]));
    if (row.contains("max_batch")) out += cat(", largest batch ", row["max_batch"].get<int64_t>());
    out += "\n";
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
                   "memory for weights and cache when serving, such as 24GiB");
  verb->add_flag("--json", flags->json, "print JSON");
  verb->footer("Example:\n  kvsmith estimate configs/gqa-1b.toml --memory 24GiB");
  verb->callback([flags] { estimate(*flags); });
}

}  // namespace kvsmith
