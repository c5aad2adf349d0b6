// What the options of Gemma's block mean, by identities with models that do without.
#include "models/decoder.h"
#include "tests/support/close.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

using Change = std::function<void(ModelConfig&)>;

Decoder made(const Change& change) {
  Decoder model(tiny_model(2, [&](ModelConfig& config) {
    config.rms_norm_eps = 0;
    change(config);
  }));
  initialize(*model, 4);
  model->eval();
  return model;
}

void multiply(Decoder& model, const std::string& part, double factor) {
  const torch::NoGradGuard no_grad;
  for (auto& [name, value] : named_parameters(*model))
    if (name.find(part) != name.npos) value.mul_(factor);
}

at::Tensor logits(Decoder& model) {
  const torch::NoGradGuard no_grad;
  return model->forward(torch::arange(21, torch::kLong).unsqueeze(0));
}

void for_softmax_kinds(const std::function<void(const Change&)>& check) {
  for (const char* kind : {"full", "sliding", "autoencoded", "bounded"}) {
    SCOPED_TRACE(kind);
    check([&](ModelConfig& config) {
      config.layer_types = {kind};
      config.sliding_window = 6;
      config.linear.num_slots = 3;
    });
  }
}

TEST(BlockOptions, AQuarterOfTheScalarIsTwiceTheQueries) {
  for_softmax_kinds([](const Change& base) {
    auto plain = made(base), sharper = made([&](ModelConfig& config) {
                               base(config);
                               config.query_pre_attn_scalar = 2;  // head_dim is 8
                             });
    EXPECT_FALSE(close(logits(sharper), logits(plain), 1e-5));
    multiply(plain, "q_proj", 2);
    EXPECT_TRUE(close(logits(sharper), logits(plain), 1e-5));
  });
}

TEST(BlockOptions, TheScalarHoldsBesideSinkLogits) {
  const Change sinks = [](ModelConfig& config) { config.attention_sink_logits = true; };
  auto plain = made(sinks), sharper = made([&](ModelConfig& config) {
                              sinks(config);
                              config.query_pre_attn_scalar = 2;
                            });
  multiply(plain, "q_proj", 2);
  EXPECT_TRUE(close(logits(sharper), logits(plain), 1e-5));
}

TEST(BlockOptions, NormedValuesHaveNoSize) {
  for_softmax_kinds([](const Change& base) {
    auto model = made([&](ModelConfig& config) {
      base(config);
      config.v_norm = true;
    });
    const auto before = logits(model);
    multiply(model, "v_proj", 3);
    EXPECT_TRUE(close(logits(model), before, 1e-5));
  });
}

TEST(BlockOptions, BranchesBetweenNormsHaveNoSize) {
  auto model = made([](ModelConfig& config) { config.sandwich_norm = true; });
  const auto before = logits(model);
  multiply(model, "o_proj", 3);
  multiply(model, "down_proj", 5);
  EXPECT_TRUE(close(logits(model), before, 1e-5));
  multiply(model, "post_attention_layernorm", 2);
  EXPECT_FALSE(close(logits(model), before, 1e-5));
}

TEST(BlockOptions, EmbeddingsAreScaledWhereTheyEnterOnly) {
  const auto tied = [](bool scaled) {
    return [scaled](ModelConfig& config) { config.scale_embeddings = scaled; };
  };
  auto scaled = made(tied(true)), plain = made(tied(false));
  multiply(plain, "embed_tokens", std::sqrt(32.0));
  EXPECT_TRUE(close(logits(scaled), logits(plain) / std::sqrt(32.0), 1e-5));
}

TEST(BlockOptions, GeluIsTheTanhApproximation) {
  GatedMlp mlp(2, 1, "gelu_pytorch_tanh");
  const torch::NoGradGuard no_grad;
  for (auto& item : mlp->named_parameters()) item.value().fill_(1);
  const auto out = mlp(torch::tensor({{0.5F, 0.25F}}));  // gate and up are 0.75
  const double inner = std::sqrt(2 / M_PI) * (0.75 + 0.044715 * 0.75 * 0.75 * 0.75);
  const double want = 0.5 * 0.75 * (1 + std::tanh(inner)) * 0.75;
  EXPECT_NEAR(out[0][1].item<double>(), want, 1e-6);
}

}  // namespace
}  // namespace kvsmith
