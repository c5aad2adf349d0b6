#include <algorithm>

#include "models/decoder.h"
#include "tests/support/close.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

ModelConfig latent_model(const std::function<void(ModelConfig&)>& change = {}) {
  return tiny_model(4, [&](ModelConfig& config) {
    config.layer_types = {"latent"};
    if (change) change(config);
  });
}

/// Names and shapes of the parameters of a layer's mixer, sorted.
std::vector<std::pair<std::string, std::vector<int64_t>>> parameters_of(const ModelConfig& config,
                                                                        int64_t layer) {
  Decoder model(config);
  const std::string prefix = "model.layers." + std::to_string(layer) + ".self_attn.";
  std::vector<std::pair<std::string, std::vector<int64_t>>> out;
  for (const auto& [name, value] : named_parameters(*model))
    if (name.starts_with(prefix)) out.emplace_back(name.substr(prefix.size()), value.sizes().vec());
  std::ranges::sort(out);
  return out;
}

using Parameters = std::vector<std::pair<std::string, std::vector<int64_t>>>;

TEST(Latent, HasTheParametersOfDeepseekV3) {
  const auto sizes = [](ModelConfig& config) {
    config.latent = {
        .kv_lora_rank = 20, .qk_rope_head_dim = 6, .qk_nope_head_dim = 10, .v_head_dim = 12};
  };
  EXPECT_EQ(parameters_of(latent_model(sizes), 0),
            (Parameters{{"kv_a_layernorm.weight", {20}},
                        {"kv_a_proj_with_mqa.weight", {26, 32}},
                        {"kv_b_proj.weight", {88, 20}},
                        {"o_proj.weight", {32, 48}},
                        {"q_proj.weight", {64, 32}}}));
  const auto compressed = [&](ModelConfig& config) {
    sizes(config);
    config.latent.q_lora_rank = 14;
  };
  EXPECT_EQ(parameters_of(latent_model(compressed), 0),
            (Parameters{{"kv_a_layernorm.weight", {20}},
                        {"kv_a_proj_with_mqa.weight", {26, 32}},
                        {"kv_b_proj.weight", {88, 20}},
                        {"o_proj.weight", {32, 48}},
                        {"q_a_layernorm.weight", {14}},
                        {"q_a_proj.weight", {14, 32}},
                        {"q_b_proj.weight", {64, 14}}}));
}

TEST(Latent, AReaderOfAnotherLayersLatentMakesKeysAndValuesOfItsOwn) {
  const auto config = latent_model([](ModelConfig& model) { model.kv_source_layers = {0, 0}; });
  EXPECT_EQ(parameters_of(config, 1), (Parameters{{"kv_b_proj.weight", {64, 32}},
                                                  {"o_proj.weight", {32, 32}},
                                                  {"q_proj.weight", {48, 32}}}));
}

TEST(Latent, RemembersTheNormedLatentAndTheRotatedKey) {
  // an eps this large would show where it does not belong
  const auto config = latent_model([](ModelConfig& model) {
    model.num_hidden_layers = 1;
    model.rms_norm_eps = 0.1;
  });
  const torch::NoGradGuard no_grad;
  Decoder model(config);
  initialize(*model, 3);
  torch::manual_seed(1);
  model->named_parameters()["model.layers.0.self_attn.kv_a_layernorm.weight"].uniform_(0.5, 2);
  auto cache = model->make_cache({.batch = 2, .growth_rows = 1});
  const auto tokens = torch::randint(0, 67, {2, 9}, torch::kLong);
  for (int64_t t = 0; t < 9; ++t)
    model->step(tokens.narrow(1, t, 1), Positions::range(t, 1), cache);

  const auto weight = [&](const std::string& name) {
    return model->named_parameters()["model." + name + ".weight"].to(torch::kDouble);
  };
  const auto rms = [](const at::Tensor& x, double eps) {
    return x / (x.pow(2).mean(-1, true) + eps).sqrt();
  };
  const auto x =
      rms(weight("embed_tokens").index({tokens}), 0.1) * weight("layers.0.input_layernorm");
  const auto both = torch::matmul(x, weight("layers.0.self_attn.kv_a_proj_with_mqa").t());
  const auto latent =
      rms(both.narrow(2, 0, 32), 1e-6) * weight("layers.0.self_attn.kv_a_layernorm");
  const auto a = both.narrow(2, 32, 2), b = both.narrow(2, 34, 2);
  const auto angle =
      torch::arange(9, torch::kDouble).unsqueeze(1) * torch::tensor({1.0, 0.01}, torch::kDouble);
  const auto key =
      torch::cat({a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()}, 2);

  const Rows rows = cache.rows_of(0).read();
  ASSERT_EQ(rows.streams.size(), 2U);
  EXPECT_TRUE(close(rows.streams[0], latent.unsqueeze(1), 1e-5));
  EXPECT_TRUE(close(rows.streams[1], key.unsqueeze(1), 1e-5));
  EXPECT_EQ(cache.bytes_reserved(), 2 * 9 * (32 + 4) * 4);
}

TEST(GroupedLatent, IsLatentAttentionOfTwoHalvesOfTheHeads) {
  const auto config = [](const std::string& kind, int64_t heads, int64_t rank) {
    return tiny_model(heads, [&](ModelConfig& model) {
      model.num_hidden_layers = 1;
      model.num_attention_heads = heads;
      model.head_dim = 8;
      model.layer_types = {kind};
      model.latent.kv_lora_rank = rank;
    });
  };
  const auto grouped_config = config("grouped_latent", 4, 24),
             half_config = config("latent", 2, 12);
  const KvGraph grouped_graph(grouped_config), half_graph(half_config);
  const torch::NoGradGuard no_grad;
  torch::manual_seed(5);
  const auto grouped = mixer_kind("grouped_latent").make(grouped_config, grouped_graph, 0);
  for (auto& parameter : grouped->parameters()) parameter.normal_(0, 0.3);

  const auto x = torch::randn({2, 11, 32});
  at::Tensor sum = torch::zeros_like(x);
  for (const int64_t half : {0, 1}) {
    const auto mixer = mixer_kind("latent").make(half_config, half_graph, 0);
    const auto from = grouped->named_parameters();
    const auto rows_of_half = [&](const std::string& name) { return from[name].chunk(2, 0)[half]; };
    for (auto& item : mixer->named_parameters()) {
      auto& to = item.value();
      if (item.key() == "kv_a_layernorm.weight") {
        to.copy_(from[item.key()]);  // shared by both latents
      } else if (item.key() == "o_proj.weight") {
        to.copy_(from[item.key()].chunk(2, 1)[half]);
      } else if (item.key() == "kv_a_proj_with_mqa.weight") {
        const auto& both = from[item.key()];
        to.copy_(torch::cat({both.narrow(0, 12 * half, 12), both.narrow(0, 24, 4)}));
      } else {
        to.copy_(rows_of_half(item.key()));
      }
    }
    sum = sum + mixer->step(x, Positions::range(0, 11), *mixer->make_transient());
  }
  EXPECT_TRUE(
      close(grouped->step(x, Positions::range(0, 11), *grouped->make_transient()), sum, 1e-5));
}

TEST(GroupedTiedAttention, IsAttentionWhoseKeysRepeatTheValues) {
  // without a rotation the tied key is an ordinary one, made by stacked weights
  const auto config = [](const std::string& kind) {
    return tiny_model(2, [&](ModelConfig& model) {
      model.num_hidden_layers = 1;
      model.layer_types = {kind};
      model.layer_rope_theta = {0};
    });
  };
  const auto tied_config = config("gta"), full_config = config("full");
  const KvGraph tied_graph(tied_config), full_graph(full_config);
  const torch::NoGradGuard no_grad;
  torch::manual_seed(6);
  const auto tied = mixer_kind("gta").make(tied_config, tied_graph, 0);
  const auto full = mixer_kind("full").make(full_config, full_graph, 0);
  for (auto& parameter : tied->parameters()) parameter.normal_(0, 0.3);
  auto from = tied->named_parameters(), to = full->named_parameters();
  for (const char* name : {"q_proj.weight", "o_proj.weight"}) to[name].copy_(from[name]);
  const auto state = from["kv_proj.weight"].unflatten(0, {2, 8});
  const auto shared = from["k_rope_proj.weight"].expand({2, 4, 32});
  to["v_proj.weight"].copy_(state.flatten(0, 1));
  to["k_proj.weight"].copy_(torch::cat({state.narrow(1, 0, 4), shared}, 1).flatten(0, 1));

  const auto x = torch::randn({2, 11, 32});
  const auto want = full->step(x, Positions::range(0, 11), *full->make_transient());
  EXPECT_TRUE(close(tied->step(x, Positions::range(0, 11), *tied->make_transient()), want, 1e-5));
  auto cache = tied->make_cache({.batch = 2, .growth_rows = 1});
  for (int64_t t = 0; t < 11; ++t) {
    const auto one = tied->step(x.narrow(1, t, 1), Positions::range(t, 1), *cache);
    EXPECT_TRUE(close(one, want.narrow(1, t, 1), 1e-5)) << t;
  }
  EXPECT_EQ(cache->bytes_used(), 2 * 11 * (2 * 8 + 4) * 4);
}

TEST(LatentSizes, AreFilledInOnlyWhereALayerHasThem) {
  EXPECT_EQ(tiny_model().latent, LatentConfig{});
  EXPECT_EQ(
      latent_model().latent,
      (LatentConfig{
          .kv_lora_rank = 32, .qk_rope_head_dim = 4, .qk_nope_head_dim = 8, .v_head_dim = 8}));
  const auto gta = tiny_model(2, [](ModelConfig& config) { config.layer_types = {"gta"}; });
  EXPECT_EQ(gta.latent, LatentConfig{.qk_rope_head_dim = 4});
}

struct Bad {
  const char* text;  ///< part of the complaint
  std::function<void(ModelConfig&)> change;
};

class LatentProblem : public ::testing::TestWithParam<Bad> {};

TEST_P(LatentProblem, IsNamed) {
  try {
    latent_model(GetParam().change);
    ADD_FAILURE() << "no complaint; expected one saying: " << GetParam().text;
  } catch (const std::logic_error& error) {
    EXPECT_NE(std::string(error.what()).find(GetParam().text), std::string::npos) << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(
    All,
    LatentProblem,
    ::testing::Values(Bad{"qk_rope_head_dim: is 5, and the rotary embedding turns pairs",
                          [](auto& c) { c.latent.qk_rope_head_dim = 5; }},
                      Bad{"leaves a gta layer with head_dim 8 no key dimension",
                          [](auto& c) {
                            c.layer_types = {"gta"};
                            c.latent.qk_rope_head_dim = 8;
                          }},
                      Bad{"kv_lora_rank: is 33, and grouped_latent layers cut it into two heads",
                          [](auto& c) {
                            c.layer_types = {"grouped_latent"};
                            c.latent.kv_lora_rank = 33;
                          }},
                      Bad{"num_attention_heads: is 3",
                          [](auto& c) {
                            c.layer_types = {"grouped_latent"};
                            c.num_attention_heads = c.num_key_value_heads = 3;
                            c.head_dim = 8;
                          }},
                      Bad{"layer 1 (latent) reads keys of layer 1 and values of layer 0",
                          [](auto& c) { c.v_source_layers = {0, 0}; }},
                      Bad{"layer 1 (latent) reads layer 0 (full), which keeps something else",
                          [](auto& c) {
                            c.layer_types = {"full", "latent"};
                            c.kv_source_layers = {0, 0};
                          }},
                      Bad{"qk_norm: is an option of full, sliding,",
                          [](auto& c) { c.qk_norm = true; }},
                      Bad{"attention_bias: is an option of full, sliding,",
                          [](auto& c) { c.attention_bias = true; }}));

}  // namespace
}  // namespace kvsmith
