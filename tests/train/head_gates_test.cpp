#include "train/head_gates.h"

#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "core/random.h"
#include "models/weights_hash.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

Decoder model_of(const std::function<void(ModelConfig&)>& change = {}) {
  Decoder model(tiny_model(2, change));
  initialize(*model, 3);
  return model;
}

/// One layer whose attention decides much of the hidden states.
Decoder outspoken_model() {
  auto model = model_of([](ModelConfig& c) { c.num_hidden_layers = 1; });
  const torch::NoGradGuard no_grad;
  for (auto& [name, weight] : named_parameters(*model))
    if (name.ends_with("o_proj.weight") || name.ends_with("v_proj.weight")) weight.mul_(10);
  return model;
}

GateSample random_text(uint64_t index) {
  GateSample out{.tokens = {}, .answers = {{18, 2}, {22, 2}}};
  for (uint64_t i = 0; i < 24; ++i)
    out.tokens.push_back(static_cast<int64_t>(hash_of(7, "token", index, i) % 67));
  return out;
}

constexpr HeadGateOptions kOptions{
    .steps = 80, .batch = 2, .regularisation = 1e-3, .sinks = 1, .window = 4};

TEST(HeadGateLearning, KeepsTheHeadThatNeedsTheDistanceAndNoOther) {
  auto model = outspoken_model();
  {
    const torch::NoGradGuard no_grad;
    for (auto& [name, weight] : named_parameters(*model))  // query heads 2 and 3 say nothing
      if (name.ends_with("o_proj.weight")) weight.narrow(1, 16, 16).zero_();
  }
  const auto before = hash_of_weights(*model);
  std::vector<HeadGateStep> steps;
  const auto learned = learn_head_gates(*model, kOptions, random_text,
                                        [&](const HeadGateStep& step) { steps.push_back(step); });
  ASSERT_EQ(learned.layers.size(), 1U);
  ASSERT_EQ(learned.layers[0].gates.size(), 2U);
  EXPECT_GT(learned.layers[0].gates[0], 0.9);
  EXPECT_EQ(learned.layers[0].gates[1], 0);
  EXPECT_EQ(hash_of_weights(*model), before) << "weights are frozen";
  EXPECT_EQ(learned.weights, hash_of_weights(*model, torch::kBFloat16));
  EXPECT_EQ(learned.context, 24);
  ASSERT_EQ(steps.size(), 80U);
  EXPECT_EQ(steps[0].difference, 0) << "gates begin at 1";
  EXPECT_NEAR(steps.back().mean_gate, (learned.layers[0].gates[0] + learned.layers[0].gates[1]) / 2,
              1e-6);
}

TEST(HeadGateLearning, DependsOnNothingButItsArguments) {
  HeadGateOptions options = kOptions;
  options.steps = 6;
  // what was learned, and on the way there
  const auto learned = [&](uint64_t shift) {
    std::vector<double> differences;
    const auto gates = learn_head_gates(
        *outspoken_model(), options, [&](uint64_t index) { return random_text(index + shift); },
        [&](const HeadGateStep& step) { differences.push_back(step.difference); });
    return std::pair(gates, differences);
  };
  const auto once = learned(0);
  EXPECT_EQ(once, learned(0));
  EXPECT_NE(once.second, learned(1000).second) << "other texts";
}

TEST(HeadGateLearning, GivesGatesToOwnersWhoseRowsAreAllSeen) {
  HeadGateOptions options = kOptions;
  options.steps = options.batch = 1;
  const auto layers_of = [&](const std::function<void(ModelConfig&)>& change) {
    std::vector<int64_t> out;
    for (const auto& of : learn_head_gates(*model_of(change), options, random_text).layers)
      out.push_back(of.layer);
    return out;
  };
  using Layers = std::vector<int64_t>;
  EXPECT_EQ(layers_of([](auto& c) { c.attention_k_eq_v = true; }), (Layers{0, 1}));
  EXPECT_EQ(layers_of([](auto& c) { c.pattern = "cla-2"; }), Layers{0});
  EXPECT_EQ(layers_of([](auto& c) {
              c.layer_types = {"sliding", "full"};
              c.sliding_window = 5;
            }),
            Layers{1});
}

TEST(HeadGateLearning, RefusesModelsWithoutSuchHeads) {
  const auto expect_refusal = [](const std::function<void(ModelConfig&)>& change,
                                 const std::string& part) {
    auto model = model_of(change);
    expect_error([&] { learn_head_gates(*model, kOptions, random_text); }, ExitCode::kConfig, part);
  };
  expect_refusal([](auto& c) { c.layer_types = {"latent"}; },
                 "layer 0 (latent) does not remember keys and values by head");
  expect_refusal([](auto& c) { c.layer_types = {"gla"}; }, "layer 0 (gla)");
  expect_refusal(
      [](auto& c) {
        c.layer_types = {"sliding"};
        c.sliding_window = 5;
      },
      "layer 0 (sliding) sees 5 tokens and nothing further back");
}

}  // namespace
}  // namespace kvsmith
