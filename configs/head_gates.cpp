#include "configs/head_gates.h"

#include <algorithm>
#include <string_view>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/json_node.h"
#include "core/text.h"

namespace kvsmith {
namespace {

constexpr const char* kFormat = "kvsmith-head-gates";
constexpr int64_t kVersion = 1;
constexpr int64_t kMost = int64_t{1} << 40;  ///< of any count
constexpr uint64_t kMostBytes = uint64_t{1} << 26;
constexpr int kLevels = 5;

bool is_sha256(std::string_view text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

HeadGatesFile::Layer layer_of(const JsonNode& node) {
  node.expect_only({"layer", "gates"});
  HeadGatesFile::Layer out{.layer = node.at("layer").integer(0, kMost)};
  const JsonNode gates = node.at("gates");
  for (size_t head = 0; head < gates.size(); ++head) out.gates.push_back(gates[head].number(0, 1));
  if (out.gates.empty()) gates.damaged("a gate for each key/value head");
  return out;
}

std::string named(const KvGraph& graph, int64_t layer) {
  return cat("layer ", layer, " (", graph[layer].kind, ")");
}

}  // namespace

HeadGatesFile read_head_gates(const std::filesystem::path& path) {
  const auto json = parse_json(read_file(path, kMostBytes), kLevels, path.string());
  const JsonNode root(json, path.string());
  if (root.at("format").text() != kFormat) root.at("format").damaged(cat("\"", kFormat, "\""));
  if (root.at("version").integer(1, kMost) != kVersion)
    root.at("version").unsupported(cat("this program reads version ", kVersion));
  root.expect_only(
      {"format", "version", "weights", "sinks", "window", "context", "steps", "layers"});

  HeadGatesFile out{.weights = root.at("weights").text(),
                    .sinks = root.at("sinks").integer(0, kMost),
                    .window = root.at("window").integer(1, kMost),
                    .context = root.at("context").integer(1, kMost),
                    .steps = root.at("steps").integer(1, kMost),
                    .layers = {}};
  if (!is_sha256(out.weights)) root.at("weights").damaged("a SHA-256 of 64 lower-case hex digits");
  const JsonNode layers = root.at("layers");
  for (size_t i = 0; i < layers.size(); ++i) {
    out.layers.push_back(layer_of(layers[i]));
    if (i > 0 && out.layers[i].layer <= out.layers[i - 1].layer)
      layers[i].at("layer").damaged(cat("a layer above ", out.layers[i - 1].layer));
  }
  if (out.layers.empty()) layers.damaged("one layer at least");
  return out;
}

void write_head_gates(const std::filesystem::path& path, const HeadGatesFile& gates) {
  nlohmann::ordered_json json = {
      {"format", kFormat},        {"version", kVersion},
      {"weights", gates.weights}, {"sinks", gates.sinks},
      {"window", gates.window},   {"context", gates.context},
      {"steps", gates.steps},     {"layers", nlohmann::ordered_json::array()}};
  for (const auto& of : gates.layers)
    json["layers"].push_back({{"layer", of.layer}, {"gates", of.gates}});
  write_file(path, json.dump(2) + "\n");
}

std::string obstacle_to_head_gates(const KvGraph& graph, int64_t layer) {
  if (!graph.is_owner(layer)) return cat(named(graph, layer), " remembers nothing of its own");
  const std::string& format = layer_kind(graph[layer].kind).row_format;
  if (format != "kv" && format != "autoencoded")
    return cat(named(graph, layer), " does not remember keys and values by head");
  for (int64_t reader = 0; reader < graph.size(); ++reader) {
    if (std::ranges::count(graph.sources(reader), layer) == 0) continue;
    const LayerSpec& spec = graph[reader];
    if (spec.window > 0)
      return cat(named(graph, reader), " sees ", spec.window, " tokens and nothing further back");
    if (graph.sources(reader).size() > 1)
      return cat(named(graph, reader), " mixes what several layers remember");
  }
  return "";
}

std::vector<int64_t> layers_with_head_gates(const KvGraph& graph) {
  std::vector<int64_t> out;
  for (int64_t layer = 0; layer < graph.size(); ++layer)
    if (obstacle_to_head_gates(graph, layer).empty()) out.push_back(layer);
  return out;
}

void expect_gates_fit(const HeadGatesFile& gates, const KvGraph& graph, const std::string& where) {
  const auto refuse = [&](const std::string& what) {
    throw Error(ExitCode::kConfig,
                {what, where, "learn gates of this model: kvsmith calibrate --method duo"});
  };
  for (const auto& of : gates.layers) {
    if (of.layer >= graph.size())
      refuse(cat("gates of layer ", of.layer, " for a model of ", graph.size(), " layers"));
    const std::string obstacle = obstacle_to_head_gates(graph, of.layer);
    if (!obstacle.empty()) refuse(cat("gates of layer ", of.layer, ", but ", obstacle));
    if (std::ssize(of.gates) != graph[of.layer].kv_heads)
      refuse(cat(of.gates.size(), " gates for the ", graph[of.layer].kv_heads,
                 " key/value heads of ", named(graph, of.layer)));
  }
  for (const int64_t layer : layers_with_head_gates(graph))
    if (std::ranges::find(gates.layers, layer, &HeadGatesFile::Layer::layer) == gates.layers.end())
      refuse(cat("no gates of ", named(graph, layer)));
}

}  // namespace kvsmith
