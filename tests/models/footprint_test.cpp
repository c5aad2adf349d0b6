#include "models/footprint.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/decoder.h"
#include "ops/losses.h"
#include "tests/support/allocations.h"
#include "tests/support/layer_cases.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

TEST(Footprint, CountsTheParametersOfRealModels) {
  std::vector<ModelConfig> configs = {tiny_model(4), tiny_model(1), tiny_model(2), tiny_model(2)};
  configs[2].qk_norm = configs[2].attention_bias = true;
  configs[3].tie_word_embeddings = false;
  configs[3].head_dim = 12;
  const auto add = [&](const std::function<void(ModelConfig&)>& change) {
    configs.push_back(tiny_model(2, change));
  };
  for (const char* kind : {"latent", "grouped_latent", "gta"}) {
    for (const char* pattern : {"", "cla-2"}) {
      add([&](ModelConfig& config) {
        config.layer_types = {kind};
        config.pattern = pattern;
        config.latent = {.kv_lora_rank = 20, .q_lora_rank = 14, .v_head_dim = 12};
      });
    }
  }
  for (const char* kind : {"mlp", "linear"}) {
    for (const bool more : {false, true}) {
      add([&](ModelConfig& config) {
        config.layer_types = {"autoencoded", more ? "autoencoded" : "rattention"};
        if (more) config.pattern = "cla-2";
        config.sliding_window = 5;
        config.qk_norm = config.attention_bias = more;
        config.autoencoder = {.autoencoder_kind = kind, .autoencoder_dim = 3};
      });
    }
  }
  add([](ModelConfig& config) {
    config.layer_types = {"autoencoded"};
    config.num_hidden_layers = 4;
    config.qk_norm = config.attention_bias = true;
    config.autoencoder.reused_heads = {"1:0", "2:0:k", "2:1:k", "3:0", "3:1"};
  });
  add([](ModelConfig& config) {
    config.layer_types = {"rattention"};
    config.sliding_window = 5;
    config.qk_norm = config.attention_bias = true;
  });
  for (const LayerCase& c : layer_cases()) configs.push_back(c.config);
  for (const auto& config : configs) {
    EXPECT_EQ(model_footprint(config).parameters, Decoder(config)->parameter_count());
  }
}

TEST(Footprint, ACapacityInBytesIsUsedUpToLessThanAToken) {
  for (const int64_t capacity : {9000, 9001, 12345}) {
    const auto config = tiny_model(2, [&](ModelConfig& model) {
      model.layer_types = {"bounded"};
      model.num_sink_tokens = 3;
      model.linear.num_slots = 8;
      model.bounded.memory_capacity_bytes = capacity;
    });
    constexpr int64_t kBf16 = 2, kLong = 1 << 20;
    const int64_t used = layer_cache_bytes(config, KvGraph(config), 0, kLong, kBf16);
    const int64_t token = 2 * config.num_key_value_heads * config.head_dim * kBf16;
    EXPECT_LE(used, capacity);
    EXPECT_GT(used + token, capacity);
  }
}

class FootprintOf : public ::testing::TestWithParam<const char*> {};

TEST_P(FootprintOf, CacheOccupiesWhatTheAllocatorHandsOut) {
  const torch::InferenceMode inference;
  Decoder model(tiny_model(2, [](ModelConfig& config) {
    config.layer_types = {GetParam()};
    config.sliding_window = 16;
  }));
  initialize(*model, 1);
  for (const int64_t tokens : {64, 100}) {
    const AllocationCounter allocations;
    auto cache = model->make_cache({.batch = 3, .initial_rows = tokens, .growth_rows = 1});
    model->step(torch::zeros({3, tokens}, torch::kLong), Positions::range(0, tokens), cache);
    EXPECT_EQ(cache.bytes_used(), cache.bytes_reserved());
    // besides the cache nothing of the step may stay alive
    EXPECT_NEAR(static_cast<double>(allocations.live_bytes()),
                static_cast<double>(cache.bytes_reserved()), 2048);
  }
}

/// Bytes of a training step's activations are near the estimate, in both precisions.
void expect_estimated(const std::function<void(ModelConfig&)>& change) {
  for (const char* precision : {"fp32", "bf16"}) {
    RunConfig config;
    config.model = tiny_model(2, [&](ModelConfig& model) {
      model.hidden_size = 128;
      model.num_hidden_layers = 4;
      model.sliding_window = 16;
      change(model);
    });
    config.train.batch_size = 4;
    config.train.sequence_length = 128;
    config.train.precision = precision;
    Decoder model(config.model);
    initialize(*model, 1);
    if (config.train.precision == "bf16") model->set_compute_type(at::kBFloat16);

    const AllocationCounter allocations;
    auto cache = model->make_transient();
    const auto tokens = torch::zeros({4, 128}, torch::kLong);
    const auto hidden = model->step(tokens, Positions::range(0, 128), cache);
    const auto loss =
        linear_cross_entropy(hidden.flatten(0, 1), model->head_weight(), tokens.flatten());
    const double ratio = static_cast<double>(allocations.peak_bytes()) /
                         static_cast<double>(training_footprint(config).activations);
    EXPECT_GT(ratio, 0.8) << precision;
    EXPECT_LT(ratio, 1.25) << precision;
  }
}

TEST_P(FootprintOf, EstimatesTheActivationsOfATrainingStep) {
  expect_estimated([](ModelConfig& model) { model.layer_types = {GetParam()}; });
}

TEST(Footprint, EstimatesTheActivationsOfGemmasBlock) { expect_estimated(gemma_block); }

TEST(Footprint, EstimatesTheActivationsOfBoundedMemories) {
  for (const int64_t window : {16, 64})
    expect_estimated([&](ModelConfig& model) {
      model.layer_types = {"bounded"};
      model.sliding_window = window;
    });
}

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    FootprintOf,
    ::testing::Values("full", "latent", "grouped_latent", "gta", "autoencoded", "rattention"),
    [](const auto& test) { return std::string(test.param); });

TEST_P(FootprintOf, EstimatesTheActivationsOfLayersThatAreComputedAgain) {
  RunConfig config;
  config.model = tiny_model(2, [](ModelConfig& model) {
    model.layer_types = {GetParam()};
    model.sliding_window = 64;
    model.hidden_size = 128;
    model.num_hidden_layers = 12;
  });
  config.train.batch_size = 4;
  config.train.sequence_length = 128;
  const int64_t plain = training_footprint(config).activations;
  config.train.gradient_checkpointing = true;
  const int64_t lean = training_footprint(config).activations;
  EXPECT_LT(3 * lean, plain);

  Decoder model(config.model);
  initialize(*model, 1);
  model->set_gradient_checkpointing(true);
  const auto tokens = torch::zeros({4, 128}, torch::kLong);
  const auto step = [&] {
    auto cache = model->make_transient();
    const auto hidden = model->step(tokens, Positions::range(0, 128), cache);
    linear_cross_entropy(hidden.flatten(0, 1), model->head_weight(), tokens.flatten()).backward();
  };
  step();  // makes the gradients, which are no activations
  const AllocationCounter allocations;
  step();
  const double ratio = static_cast<double>(allocations.peak_bytes()) / static_cast<double>(lean);
  EXPECT_GT(ratio, 0.7);
  EXPECT_LT(ratio, 1.4);
}

TEST(Footprint, FlopsOfALlama7bAreTheKnownOnes) {
  ModelConfig llama;
  llama.vocab_size = 32000;
  llama.hidden_size = 4096;
  llama.intermediate_size = 11008;
  llama.num_hidden_layers = llama.num_attention_heads = 32;
  llama.tie_word_embeddings = false;
  fill_in(llama);
  EXPECT_EQ(model_footprint(llama).parameters, 6738415616);  // "6.7B", the published count
  EXPECT_EQ(kv_cache_bytes(llama, 1, 2), 524288);            // the well-known half MiB a token
  // 6 per parameter that is multiplied, and 12 per layer, channel and token that is seen
  const double multiplied = 6738415616.0 - 32000 * 4096 - 65 * 4096;
  EXPECT_NEAR(training_flops_per_token(llama, 2048),
              6 * multiplied + 12.0 * 32 * 4096 * (2048 + 1) / 2, 1);
}

}  // namespace
}  // namespace kvsmith
