#include "evaluate/head_distances.h"

#include <cmath>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "core/text.h"
#include "evaluate/result_file.h"
#include "tools/model_flags.h"
#include "tools/verbs.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

struct Flags {
  ModelFlags model;
  std::filesystem::path corpus, json;
  DistanceOptions options{.context = 0, .max_tokens = 16384};
  double threshold = NAN;
  bool force = false;
};

void print(const std::optional<double>& distance) {
  std::cout << std::setw(9);
  if (distance) {
    std::cout << *distance;
  } else {
    std::cout << "-";
  }
}

Json to_json(const std::optional<double>& distance) { return distance ? Json(*distance) : Json(); }

void compare_heads(Flags& flags) {
  if (!flags.json.empty()) expect_writable(flags.json, flags.force);
  const Corpus corpus = Corpus::open(flags.corpus);
  LoadedModel model = load(flags.model);
  if (flags.options.context == 0)
    flags.options.context = model.model->config().max_position_embeddings;
  const auto distances = head_distances(model, corpus, flags.options);

  Json json = {{"checkpoint", model.path.string()},      {"corpus", flags.corpus.string()},
               {"split", flags.options.split},           {"context", flags.options.context},
               {"max_tokens", flags.options.max_tokens}, {"heads", Json::array()}};
  std::cout << "layer  head     keys   values\n" << std::fixed << std::setprecision(4);
  for (const HeadDistance& of : distances) {
    std::cout << std::setw(5) << of.layer << std::setw(6) << of.head;
    print(of.keys);
    print(of.values);
    std::cout << "\n";
    json["heads"].push_back({{"layer", of.layer},
                             {"head", of.head},
                             {"keys", to_json(of.keys)},
                             {"values", to_json(of.values)}});
  }
  if (!std::isnan(flags.threshold)) {
    const Json reused = heads_within(distances, flags.threshold);
    std::vector<std::string> items;
    for (const auto& item : reused) items.push_back(item.dump());
    std::cout << "\nreused_heads = [" << join(items) << "]\n";
    json["threshold"] = flags.threshold;
    json["reused_heads"] = reused;
  }
  if (!flags.json.empty()) write_result(flags.json, json);
}

}  // namespace

void add_head_distances(CLI::App& app) {
  auto* verb = app.add_subcommand("head-distances",
                                  "How far key/value heads are from those of the layer below");
  auto flags = std::make_shared<Flags>();
  add_model_flags(*verb, flags->model);
  verb->add_option("--corpus", flags->corpus, "corpus file made by `data build`")->required();
  verb->add_option("--split", flags->options.split, "split to read")->capture_default_str();
  verb->add_option("--context", flags->options.context,
                   "tokens a window; 0: max_position_embeddings")
      ->check(CLI::NonNegativeNumber);
  verb->add_option("--max-tokens", flags->options.max_tokens, "tokens to read; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  verb->add_option("--threshold", flags->threshold,
                   "also print the `reused_heads` of what is nearer than this");
  verb->add_option("--json", flags->json, "write the result to this file");
  verb->add_flag("--force", flags->force, "replace the file");
  verb->footer(
      "A distance is sum |a - b| over the mean of sum |a| and sum |b|, keys before the rotation:\n"
      "0 where both layers hold the same, at most 2. Autoencoded layers can read near heads from\n"
      "the layer below; see `kvsmith reference`, model.reused_heads.\n"
      "Example:\n"
      "  kvsmith head-distances runs/codes --corpus corpus.h5 --threshold 0.4");
  verb->callback([flags] { compare_heads(*flags); });
}

}  // namespace kvsmith
