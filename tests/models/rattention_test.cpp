#include "models/decoder.h"
#include "tests/support/close.h"
#include "tests/support/decoding.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

ModelConfig layers(const std::string& kind, int64_t window, int64_t sinks = 0) {
  return tiny_model(2, [&](ModelConfig& config) {
    config.layer_types = {kind};
    config.sliding_window = window;
    config.num_sink_tokens = sinks;
  });
}

Decoder model_of(const ModelConfig& config) {
  Decoder model(config);
  initialize(*model, 4);
  model->eval();
  return model;
}

/// Sets the weight of the linear part in every layer.
void weigh_residual(Decoder& model, double weight) {
  const torch::NoGradGuard no_grad;
  for (auto& [name, value] : named_parameters(*model))
    if (name.ends_with("residual_norm.weight")) value.fill_(weight);
}

TEST(RAttention, IsAWindowWhereTheLinearPartIsSwitchedOff) {
  torch::manual_seed(1);
  const auto tokens = torch::randint(0, 67, {2, 30}, torch::kLong);
  for (const int64_t sinks : {0, 3}) {
    auto model = model_of(layers("rattention", 5, sinks));
    auto sliding = model_of(layers("sliding", 5, sinks));
    EXPECT_GT((model->forward(tokens) - sliding->forward(tokens)).abs().max().item<double>(), 1e-3);
    weigh_residual(model, 0);
    EXPECT_TRUE(close(model->forward(tokens), sliding->forward(tokens), 1e-5));
  }
}

TEST(RAttention, IsFullAttentionWhileNothingHasLeftTheWindow) {
  const auto tokens = torch::arange(30, torch::kLong).unsqueeze(0);
  auto model = model_of(layers("rattention", 27, 3)), full = model_of(tiny_model(2));
  weigh_residual(model, 5);
  EXPECT_TRUE(close(model->forward(tokens), full->forward(tokens), 1e-5));
}

TEST(RAttention, RemembersBeyondItsWindow) {
  auto tokens = torch::arange(40, torch::kLong).unsqueeze(0);
  const auto config = [](const char* kind) {
    auto one = layers(kind, 4);
    one.num_hidden_layers = 1;
    one.layer_types = {kind};
    one.k_source_layers = one.v_source_layers = one.kv_source_layers = {0};
    one.layer_num_key_value_heads = {2};
    one.layer_rope_theta = {10000};
    return one;
  };
  auto model = model_of(config("rattention")), sliding = model_of(config("sliding"));
  auto changed = tokens.clone();
  changed[0][0] = 60;
  const auto difference = [&](Decoder& which) {
    const auto last = (which->forward(changed) - which->forward(tokens)).select(1, 39);
    return last.abs().max().item<double>();
  };
  EXPECT_EQ(difference(sliding), 0);
  EXPECT_GT(difference(model), 1e-4);
}

TEST(RAttention, LongStepsEndAnywhere) {
  const torch::NoGradGuard no_grad;
  torch::manual_seed(6);
  const auto tokens = torch::randint(0, 67, {2, 200}, torch::kLong);
  auto model = model_of(layers("rattention", 9, 2));
  const auto whole = model->forward(tokens);
  for (const auto& steps : {std::vector<int64_t>{63, 1, 1, 135}, {4, 3, 100, 1, 92}, {1, 199}}) {
    EXPECT_TRUE(close(logits_in_steps(model, tokens, steps), whole, 2e-5));
  }
}

TEST(RAttention, AWindowThatIsStillWholeCanGoBack) {
  const torch::NoGradGuard no_grad;
  const auto tokens = torch::arange(30, torch::kLong).unsqueeze(0);
  auto model = model_of(layers("rattention", 10));
  auto cache = model->make_cache({.batch = 1});
  model->step(tokens.narrow(1, 20, 9), Positions::range(0, 9), cache);
  model->step(tokens.narrow(1, 0, 3), Positions::range(0, 3), cache);
  const auto rest =
      model->logits(model->step(tokens.narrow(1, 3, 27), Positions::range(3, 27), cache));
  EXPECT_TRUE(close(rest, model->forward(tokens).narrow(1, 3, 27), 2e-5));
}

TEST(RAttention, BytesStopGrowingAtTheWindow) {
  const auto config = layers("rattention", 5, 2);
  EXPECT_EQ(kv_cache_bytes(config, 0, 2), 0);
  EXPECT_EQ(kv_cache_bytes(config, 1, 2), 2 * 2 * (1 * 2 * 8 * 2 + 2 * 8 * 8 * 4));
  EXPECT_EQ(kv_cache_bytes(config, 7, 2), 2 * 2 * (7 * 2 * 8 * 2 + 2 * 8 * 8 * 4));
  EXPECT_EQ(kv_cache_bytes(config, 1000, 2), kv_cache_bytes(config, 7, 2));
}

TEST(RAttention, NeedsAWindow) {
  try {
    layers("rattention", 0);
    ADD_FAILURE() << "no complaint";
  } catch (const std::logic_error& error) {
    EXPECT_NE(std::string(error.what()).find("layer 0 is rattention and no sliding_window is set"),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace kvsmith
