#pragma once

#include <string>
#include <vector>

#include <torch/types.h>

#include "cache/cache_plan.h"
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

}  // namespace kvsmith
