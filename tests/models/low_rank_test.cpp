#include "models/low_rank.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/modules.h"
#include "tests/support/close.h"
#include "tests/support/expect_error.h"
#include "tests/support/layer_cases.h"

namespace kvsmith {
namespace {

LoraConfig adapter(std::vector<std::string> targets = {"*.q_proj", "*.v_proj"}) {
  LoraConfig config;
  config.rank = 3;
  config.targets = std::move(targets);
  return config;
}

Decoder initialised(const ModelConfig& config) {
  Decoder model(config);
  initialize(*model, 2);
  model->eval();
  return model;
}

at::Tensor logits(Decoder& model) {
  const torch::NoGradGuard no_grad;
  return model->forward((torch::arange(40, torch::kLong) * 7 % 61).view({2, 20}));
}

TEST(LowRank, ChangesNothingAtFirstAndIsNamedAsPeftDoes) {
  Decoder model = initialised(tiny_model());
  const auto before = logits(model);
  const auto maps = add_adapters(*model, adapter(), 5);
  EXPECT_EQ(maps, (std::vector<std::string>{
                      "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj",
                      "model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"}));
  EXPECT_TRUE(logits(model).equal(before));
  const auto parameters = adapter_parameters(*model);
  ASSERT_EQ(parameters.size(), 8U);
  EXPECT_EQ(parameters[0].first, "model.layers.0.self_attn.q_proj.lora_A.weight");
  EXPECT_EQ(parameters[0].second.sizes(), (std::vector<int64_t>{3, 32}));
  EXPECT_EQ(parameters[3].first, "model.layers.0.self_attn.v_proj.lora_B.weight");
  EXPECT_EQ(parameters[3].second.sizes(), (std::vector<int64_t>{16, 3}));
}

TEST(LowRank, RefusesATargetThatIsNone) {
  Decoder model = initialised(tiny_model());
  expect_error([&] { add_adapters(*model, adapter({"*.q_prj"}), 5); }, ExitCode::kConfig,
               "the nearest is model.layers.0.self_attn.q_proj");
}

/// A weight that is made anew, as one in blocks is.
struct Copied final : HeldWeight {
  explicit Copied(at::Tensor from) : weight(std::move(from)) {}
  at::Tensor dense(at::ScalarType type) const override { return weight.to(type); }
  at::Tensor weight;
};

TEST(LowRank, RefusesDropoutWhereAMapIsNotGivenItsInput) {
  Decoder model(tiny_model(2, [](ModelConfig& c) { c.layer_types = {"latent"}; }));
  LoraConfig config;
  config.rank = 2;
  config.dropout = 0.1;
  config.targets = {"*.kv_b_proj"};
  expect_error([&] { add_adapters(*model, config, 0); }, ExitCode::kConfig, "lora.dropout");
}

TEST(LowRank, LearnsAlikeAboveAWeightThatIsHeld) {
  Decoder plain = initialised(tiny_model()), held = initialised(tiny_model());
  for (auto* model : {&plain, &held}) {
    for (const auto& parameter : (*model)->parameters()) parameter.set_requires_grad(false);
    add_adapters(**model, adapter(), 5);
    torch::manual_seed(4);
    for (const auto& [name, value] : adapter_parameters(**model)) value.data().normal_(0, 0.1);
  }
  for (const auto& item : held->named_modules("", false)) {
    auto* map = item.value()->as<LinearImpl>();
    if (map && map->is_adapted())
      map->hold(std::make_shared<const Copied>(map->weight.detach().clone()));
  }
  EXPECT_EQ(held->parameter_count(), plain->parameter_count());
  const auto tokens = torch::arange(30, torch::kLong).unsqueeze(0);
  const auto a = plain->forward(tokens), b = held->forward(tokens);
  EXPECT_TRUE(a.equal(b));
  a.square().mean().backward();
  b.square().mean().backward();
  const auto expected = adapter_parameters(*plain), got = adapter_parameters(*held);
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_TRUE(close(got[i].second.grad(), expected[i].second.grad(), 1e-6)) << got[i].first;
}

class LowRankOn : public ::testing::TestWithParam<LayerCase> {};

INSTANTIATE_TEST_SUITE_P(Layers,
                         LowRankOn,
                         ::testing::ValuesIn(layer_cases()),
                         [](const auto& item) { return item.param.name; });

/// Layers that multiply by a weight themselves must not forget the adapter.
TEST_P(LowRankOn, EveryMapActsAsTheWeightWithWhatTheAdapterAdds) {
  Decoder model = initialised(GetParam().config), merged = initialised(GetParam().config);
  add_adapters(*model, adapter({"*"}), 5);
  torch::manual_seed(3);
  const torch::NoGradGuard no_grad;
  for (const auto& [name, value] : adapter_parameters(*model)) value.normal_(0, 0.05);
  for (const auto& item : model->named_modules("", false)) {
    auto* map = item.value()->as<LinearImpl>();
    if (!map || !map->is_adapted()) continue;
    merged->named_parameters()[item.key() + ".weight"].copy_(map->effective_weight());
  }
  Decoder plain = initialised(GetParam().config);
  const auto got = logits(model), expected = logits(merged);
  EXPECT_TRUE(close(got, expected, 1e-5));
  EXPECT_FALSE(close(got, logits(plain), 1e-3));
}

}  // namespace
}  // namespace kvsmith
