#include "configs/head_gates.h"

#include <functional>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "configs/run_config.h"
#include "core/files.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

using Json = nlohmann::json;

HeadGatesFile sample() {
  return {.weights = std::string(64, 'a'),
          .sinks = 4,
          .window = 64,
          .context = 512,
          .steps = 100,
          .layers = {{.layer = 0, .gates = {1, 0.1}}, {.layer = 2, .gates = {0, 0.625}}}};
}

/// Six layers of two key/value heads.
KvGraph graph_of(const std::function<void(ModelConfig&)>& change = {}) {
  ModelConfig config;
  config.vocab_size = 67;
  config.hidden_size = 32;
  config.num_hidden_layers = 6;
  config.num_attention_heads = 4;
  config.num_key_value_heads = 2;
  if (change) change(config);
  EXPECT_TRUE(fill_in(config).empty());
  return KvGraph(config);
}

TEST(HeadGates, SurviveAFile) {
  const TemporaryDirectory directory;
  const auto path = directory / "gates.json";
  write_head_gates(path, sample());
  EXPECT_EQ(read_head_gates(path), sample());
  EXPECT_EQ(Json::parse(read_file(path)).at("format"), "kvsmith-head-gates");
}

TEST(HeadGates, DamagedFilesAreRefusedAtTheirPlace) {
  const TemporaryDirectory directory;
  const auto path = directory / "gates.json";
  expect_error([&] { read_head_gates(path); }, ExitCode::kMissingInput, "gates.json");
  write_file(path, "{\"format\": ");
  expect_error([&] { read_head_gates(path); }, ExitCode::kBadData, "malformed JSON at byte");
  write_file(path, "[]");
  expect_error([&] { read_head_gates(path); }, ExitCode::kBadData, "expected an object");

  write_head_gates(path, sample());
  const Json good = Json::parse(read_file(path));
  const struct {
    Json patch;
    ExitCode code;
    const char* part;
  } cases[] = {
      {{{"format", "gates"}}, ExitCode::kBadData, "format: found \"gates\""},
      {{{"version", 2}}, ExitCode::kConfig, "version: found 2"},
      {{{"weights", "abc"}}, ExitCode::kBadData, "weights: found \"abc\""},
      {{{"weights", nullptr}}, ExitCode::kBadData, "no \"weights\""},
      {{{"sinks", -1}}, ExitCode::kBadData, "sinks: found -1"},
      {{{"window", 0}}, ExitCode::kBadData, "window: found 0"},
      {{{"window", 2.5}}, ExitCode::kBadData, "window: found 2.5"},
      {{{"context", "512"}}, ExitCode::kBadData, "context: found \"512\""},
      {{{"threshold", 0.5}}, ExitCode::kConfig, "threshold: found 0.5"},
      {{{"layers", Json::array()}}, ExitCode::kBadData, "one layer at least"},
      {{{"layers", {{{"layer", 0}, {"gates", {1, 1.5}}}}}},
       ExitCode::kBadData,
       "layers[0].gates[1]: found 1.5; expected a number from 0 to 1"},
      {{{"layers", {{{"layer", 0}, {"gates", {nullptr}}}}}},
       ExitCode::kBadData,
       "layers[0].gates[0]: found null"},
      {{{"layers", {{{"layer", 0}, {"gates", Json::array()}}}}},
       ExitCode::kBadData,
       "a gate for each key/value head"},
      {{{"layers", {{{"layer", 1}, {"gates", {1}}}, {{"layer", 1}, {"gates", {1}}}}}},
       ExitCode::kBadData,
       "layers[1].layer: found 1; expected a layer above 1"},
  };
  for (const auto& [patch, code, part] : cases) {
    Json bad = good;
    bad.merge_patch(patch);
    write_file(path, bad.dump());
    expect_error([&] { read_head_gates(path); }, code, part);
  }
}

TEST(HeadGates, BelongToOwnersWhoseReadersSeeAllOfTheirRows) {
  using Layers = std::vector<int64_t>;
  const auto layers = [](const std::function<void(ModelConfig&)>& change) {
    return layers_with_head_gates(graph_of(change));
  };
  EXPECT_EQ(layers({}), (Layers{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(layers([](auto& c) { c.attention_k_eq_v = true; }), (Layers{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(layers([](auto& c) { c.pattern = "cla-2"; }), (Layers{0, 2, 4}));
  EXPECT_EQ(layers([](auto& c) { c.pattern = "lckv"; }), (Layers{0, 4, 5}));
  EXPECT_EQ(layers([](auto& c) {
              c.layer_types = {"sliding", "sliding", "full"};
              c.sliding_window = 5;
            }),
            (Layers{2, 5}));
  for (const char* kind : {"latent", "grouped_latent", "gta", "gated_delta"})
    EXPECT_EQ(layers([&](auto& c) { c.layer_types = {kind}; }), Layers{}) << kind;
  EXPECT_EQ(layers([](auto& c) {
              c.layer_types = {"autoencoded"};
              c.autoencoder.reused_heads = {"4:1"};
            }),
            (Layers{0, 1, 2, 5}))
      << "layer 4 reads a head of layer 3";
  const KvGraph fused = graph_of([](auto& c) { c.pattern = "fusedkv"; });
  for (const int64_t layer : layers_with_head_gates(fused))
    EXPECT_EQ(fused.last_reader(layer), layer) << "what fused layers mix has no gates";
}

TEST(HeadGates, HaveToFitTheModel) {
  const KvGraph graph = graph_of([](auto& c) { c.pattern = "cla-2"; });
  HeadGatesFile gates = sample();
  gates.layers.push_back({.layer = 4, .gates = {1, 1}});
  expect_gates_fit(gates, graph, "gates.json");

  const auto expect_refusal = [&](const std::function<void(HeadGatesFile&)>& change,
                                  const std::string& part) {
    HeadGatesFile other = gates;
    change(other);
    expect_error([&] { expect_gates_fit(other, graph, "gates.json"); }, ExitCode::kConfig, part);
  };
  expect_refusal([](auto& g) { g.layers.pop_back(); }, "gates.json: no gates of layer 4");
  expect_refusal([](auto& g) { g.layers[0].gates = {1}; }, "1 gates for the 2 key/value heads");
  expect_refusal([](auto& g) { g.layers[1].layer = 3; }, "layer 3 (full) remembers nothing");
  expect_refusal([](auto& g) { g.layers[2].layer = 40; }, "layer 40 for a model of 6 layers");
}

}  // namespace
}  // namespace kvsmith
