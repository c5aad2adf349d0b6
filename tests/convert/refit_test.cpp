#include "convert/refit.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "tests/convert/conversions.h"
#include "tests/support/close.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

std::vector<int32_t> text(int32_t tokens) { return some_text(tokens, "refit"); }

at::Tensor output_weight(const Decoder& model, int64_t layer) {
  return model
      ->named_parameters()["model.layers." + std::to_string(layer) + ".self_attn.o_proj.weight"];
}

void one_head(ModelConfig& config) { config.num_key_value_heads = 1; }
void pairs(ModelConfig& config) { config.pattern = "cla-2"; }

double missed(Decoder& model, Decoder& source) {
  return (logits(model) - logits(source)).square().mean().item<double>();
}

TEST(RefitOutputs, NothingWrongChangesNothing) {
  Decoder source = random_model(tiny_model(2)), model = random_model(tiny_model(2));
  const auto errors = refit_outputs(*source, *model, text(800), 100);
  EXPECT_LT(errors.before, 1e-12);
  EXPECT_TRUE(close(logits(model), logits(source), 1e-6));
}

TEST(RefitOutputs, FindsAProjectionThatWasMixedUp) {
  const torch::NoGradGuard no_grad;
  Decoder source = random_model(tiny_model(2)), model = random_model(tiny_model(2));
  torch::manual_seed(5);
  for (const int64_t layer : {0, 1}) {
    auto weight = output_weight(model, layer);
    weight.copy_(torch::matmul(torch::eye(32) + torch::randn({32, 32}) * 0.1, weight));
  }
  ASSERT_FALSE(close(logits(model), logits(source), 0.01));
  const auto errors = refit_outputs(*source, *model, text(2000), 100);
  EXPECT_GT(errors.before, 0.1);
  EXPECT_LT(errors.after, 1e-3);
  EXPECT_TRUE(close(logits(model), logits(source), 0.01));
}

/// Every kind of graph, among them one that is run in several passes.
TEST(RefitOutputs, BringsAConversionNearer) {
  const std::vector<std::function<void(ModelConfig&)>> changes = {
      one_head,
      pairs,
      [](ModelConfig& c) { c.pattern = "lckv"; },
      [](ModelConfig& c) {
        c.layer_types = {"latent"};
        c.latent.kv_lora_rank = 8;
        c.latent.qk_rope_head_dim = 4;
      },
  };
  for (const auto& change : changes) {
    Decoder source = random_model(tiny_model(2, [](ModelConfig& c) { c.num_hidden_layers = 4; }));
    const auto ids = text(4000);
    Decoder model = converted(source, change, Pooling::kFit, ids).model;
    const double before = missed(model, source);
    const auto errors = refit_outputs(*source, *model, ids, 100);
    EXPECT_LT(errors.after, errors.before) << architecture_name(model->config());
    EXPECT_LT(missed(model, source), before) << architecture_name(model->config());
  }
}

/// With sandwich_norm a norm takes it away.
TEST(RefitOutputs, TheSizeOfWhatIsNormedDoesNotMatter) {
  const torch::NoGradGuard no_grad;
  const auto ids = text(4000);
  at::Tensor expected;
  for (const int64_t size : {1, 8}) {
    Decoder source = random_model(tiny_model(2, [](ModelConfig& c) {
      c.sandwich_norm = true;
      c.rms_norm_eps = 1e-12;
    }));
    for (const int64_t layer : {0, 1}) output_weight(source, layer).mul_(size);
    Decoder model = converted(source, pairs, Pooling::kFit, ids).model;
    const double before = missed(model, source);
    const auto errors = refit_outputs(*source, *model, ids, 100);
    EXPECT_LT(errors.after, errors.before);
    EXPECT_LT(missed(model, source), before);
    if (expected.defined()) {
      EXPECT_TRUE(close(logits(model), expected, 1e-3));
    }
    expected = logits(model);
  }
}

TEST(RefitOutputs, DropoutHasNoPart) {
  const auto refit = [](double dropout) {
    Decoder source = random_model(tiny_model(2, [&](ModelConfig& c) { c.dropout = dropout; }));
    source->eval();
    const auto ids = text(800);
    Decoder model = converted(source, one_head, Pooling::kFit, ids).model;
    refit_outputs(*source, *model, ids, 100);
    return logits(model);
  };
  EXPECT_TRUE(torch::equal(refit(0.1), refit(0)));
}

TEST(RefitOutputs, AttentionThatGivesNothingIsNoObstacle) {
  Decoder source = random_model(tiny_model(2));
  {
    const torch::NoGradGuard no_grad;
    for (auto& [name, tensor] : named_parameters(*source))
      if (name.ends_with("v_proj.weight")) tensor.zero_();
  }
  const auto ids = text(800);
  Decoder model = converted(source, one_head, Pooling::kFit, ids).model;
  const auto errors = refit_outputs(*source, *model, ids, 100);
  EXPECT_EQ(errors.before, 0);
  EXPECT_EQ(errors.after, 0);
  EXPECT_TRUE(close(logits(model), logits(source), 1e-6));
}

}  // namespace
}  // namespace kvsmith
