#include "models/decoder.h"
#include "tests/support/close.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

at::Tensor named(Decoder& model, const std::string& name) {
  return model->named_parameters()[name];
}

TEST(GroupedQueryAttention, EqualsMultiHeadAttentionWithRepeatedHeads) {
  Decoder grouped(tiny_model(2)), full(tiny_model(4));
  initialize(*grouped, 1);
  initialize(*full, 1);
  const torch::NoGradGuard no_grad;
  for (int layer = 0; layer < 2; ++layer) {
    for (const char* projection : {"k_proj", "v_proj"}) {
      const auto name =
          "model.layers." + std::to_string(layer) + ".self_attn." + projection + ".weight";
      const auto heads = named(grouped, name).unflatten(0, {2, 8});
      named(full, name).copy_(heads.repeat_interleave(2, 0).flatten(0, 1));
    }
  }
  const auto tokens = torch::arange(20, torch::kLong).unsqueeze(0);
  EXPECT_TRUE(close(grouped->forward(tokens), full->forward(tokens), 1e-5));
}

TEST(Initialize, DependsOnNameAndSeedOnly) {
  const auto deeper_config =
      tiny_model(2, [](ModelConfig& config) { config.num_hidden_layers = 3; });
  Decoder a(tiny_model()), b(tiny_model()), deeper(deeper_config), other(tiny_model());
  initialize(*a, 5);
  initialize(*b, 5);
  initialize(*deeper, 5);
  initialize(*other, 6);
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  EXPECT_TRUE(torch::equal(named(a, name), named(b, name)));
  EXPECT_TRUE(torch::equal(named(a, name), named(deeper, name)));
  EXPECT_FALSE(torch::equal(named(a, name), named(other, name)));
  EXPECT_FALSE(torch::equal(named(a, name), named(a, "model.layers.0.self_attn.q_proj.weight")));
}

TEST(Decoder, HasTheParameterNamesOfLlama) {
  const auto config = tiny_model(2, [](ModelConfig& model) {
    model.num_hidden_layers = 1;
    model.tie_word_embeddings = false;
  });
  Decoder model(config);
  std::vector<std::string> names;
  for (const auto& item : model->named_parameters()) names.push_back(item.key());
  std::ranges::sort(names);
  EXPECT_EQ(
      names,
      (std::vector<std::string>{
          "lm_head.weight", "model.embed_tokens.weight", "model.layers.0.input_layernorm.weight",
          "model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.gate_proj.weight",
          "model.layers.0.mlp.up_proj.weight", "model.layers.0.post_attention_layernorm.weight",
          "model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.o_proj.weight",
          "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.v_proj.weight",
          "model.norm.weight"}));
}

}  // namespace
}  // namespace kvsmith
