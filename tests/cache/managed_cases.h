#pragma once

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <torch/types.h>

#include "cache/cache_plan.h"
#include "models/weights_hash.h"
#include "tests/support/layer_cases.h"

namespace kvsmith {

/// Architectures whose layers remember rows: with their own heads, with one latent, shared between
/// layers, read from below, beside windows.
inline std::vector<LayerCase> managed_architectures() {
  return {option("gqa", [](ModelConfig& /*config*/) {}),
          option("sinks", [](ModelConfig& config) { config.attention_sink_logits = true; }),
          option("latent", latent_sizes),
          option("gta", [](ModelConfig& config) { config.layer_types = {"gta"}; }),
          option("k_eq_v", [](ModelConfig& config) { config.attention_k_eq_v = true; }),
          pattern("cla-2"),
          pattern("lckv"),
          pattern("local-global-2-1")};
}

/// With weights so large that attention is sharp: what a policy keeps depends on the text.
inline Decoder managed_model(ModelConfig config, uint64_t seed = 3) {
  config.initializer_range = 0.15;
  Decoder model(config);
  initialize(*model, seed);
  model->eval();
  return model;
}

/// Logits of `tokens`, [batch, seq], read through `cache`: the first `prompt` in one step, then one
/// by one -> [batch, seq, vocab_size].
inline at::Tensor logits_through(Decoder& model,
                                 const at::Tensor& tokens,
                                 KvCache& cache,
                                 int64_t prompt = 1) {
  const torch::NoGradGuard no_grad;
  std::vector<at::Tensor> out;
  for (int64_t first = 0; first < tokens.size(1);) {
    const int64_t count = first == 0 ? prompt : 1;
    out.push_back(model->logits(
        model->step(tokens.narrow(1, first, count), Positions::range(first, count), cache)));
    first += count;
  }
  return torch::cat(out, 1);
}

/// Whether a fork of a cache that has read `tokens`, [1, seq], goes on as one that was never
/// forked, while the original goes on with other tokens.
inline bool forks_apart(Decoder& model, const at::Tensor& tokens, const CachePlan& plan) {
  const int64_t seq = tokens.size(1);
  const auto opened = [&] {
    auto cache = plan.make(*model, {.batch = 1});
    logits_through(model, tokens, cache, seq - 5);
    return cache;
  };
  const auto next = [&](KvCache& on, int64_t token, int64_t at) {
    const torch::NoGradGuard no_grad;
    return model->step(torch::full({1, 1}, token, torch::kLong), Positions::range(at, 1), on);
  };
  auto cache = opened(), alone = opened();
  auto fork = cache.fork();
  next(fork, 9, seq);
  next(cache, 11, seq);
  next(cache, 12, seq + 1);
  next(alone, 9, seq);
  return next(fork, 13, seq + 1).equal(next(alone, 13, seq + 1));
}

/// Largest difference between the logits of sequences of 25 and 17 tokens that go on side by side,
/// one of them pausing, and of each alone.
inline double mixing_of_unequal_lengths(Decoder& model,
                                        const CachePlan& plan,
                                        const at::Tensor& tokens) {
  const torch::NoGradGuard no_grad;
  const std::vector<int64_t> prompts = {25, 17};
  constexpr int64_t kSteps = 10;
  auto together = plan.make(*model, {.batch = 2});
  auto padded = torch::zeros({2, 25}, torch::kLong);
  for (int64_t b = 0; b < 2; ++b) {
    const int64_t prompt = prompts[static_cast<size_t>(b)];
    padded[b].narrow(0, 0, prompt).copy_(tokens[b].narrow(0, 0, prompt));
  }
  model->step(padded, Positions::ragged({{0, 25}, {0, 17}}), together);
  std::vector<at::Tensor> first, second;
  int64_t read = 17;
  for (int64_t t = 0; t < kSteps; ++t) {
    const bool pauses = t % 3 == 1;
    const auto next = torch::cat(
        {tokens.narrow(0, 0, 1).narrow(1, 25 + t, 1), tokens.narrow(0, 1, 1).narrow(1, read, 1)});
    const auto where = Positions::ragged({{25 + t, 1}, {read, pauses ? 0 : 1}});
    const auto logits = model->logits(model->step(next, where, together));
    first.push_back(logits.narrow(0, 0, 1));
    if (pauses) continue;
    second.push_back(logits.narrow(0, 1, 1));
    ++read;
  }
  double worst = 0;
  for (int64_t b = 0; b < 2; ++b) {
    const int64_t prompt = prompts[static_cast<size_t>(b)];
    const auto got = torch::cat(b == 0 ? first : second, 1);
    auto alone = plan.make(*model, {.batch = 1});
    const auto own = tokens.narrow(0, b, 1).narrow(1, 0, prompt + got.size(1));
    const auto expected = logits_through(model, own, alone, prompt);
    worst =
        std::max(worst, (expected.narrow(1, prompt, got.size(1)) - got).abs().max().item<double>());
  }
  return worst;
}

/// No token twice in a sequence: in the first layer it would have the same key, but for its turn,
/// and rounding would decide between rows of equal norm.
inline at::Tensor random_tokens(int64_t batch, int64_t seq, uint64_t seed = 5) {
  torch::manual_seed(seed);
  std::vector<at::Tensor> rows;
  for (int64_t b = 0; b < batch; ++b)
    rows.push_back(torch::randperm(64, torch::kLong).narrow(0, 0, seq) + 3);
  return torch::stack(rows);
}

/// A policy with a budget of 12 rows, of which 2 sinks and 4 recent ones are protected.
inline CacheConfig small_budget(const std::string& retention, int64_t budget = 12) {
  CacheConfig config;
  config.retention = retention;
  config.budget_tokens = budget;
  config.protect_sinks = 2;
  config.protect_recent = 4;
  config.observation_window = 5;
  config.pooling_kernel = 3;
  return config;
}

/// A file of gates for every head of `model`, some high and some low; streaming heads keep what
/// small_budget() protects.
inline std::string write_gates(const DecoderImpl& model, const std::filesystem::path& folder) {
  HeadGatesFile file{.weights = hash_of_weights(model, torch::kBFloat16),
                     .sinks = 2,
                     .window = 4,
                     .context = 40,
                     .steps = 1,
                     .layers = {}};
  for (const int64_t layer : layers_with_head_gates(model.graph())) {
    HeadGatesFile::Layer gates{.layer = layer};
    for (int64_t head = 0; head < model.graph()[layer].kv_heads; ++head)
      gates.gates.push_back(static_cast<double>((3 * layer + 2 * head) % 5) / 4);
    file.layers.push_back(gates);
  }
  const auto path = folder / "gates.json";
  write_head_gates(path, file);
  return path.string();
}

}  // namespace kvsmith
