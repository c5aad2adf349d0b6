#include "models/decoder.h"
#include "tests/support/close.h"
#include "tests/support/decoding.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

ModelConfig coded(const std::string& kind, int64_t dim, bool qk_norm = false) {
  return tiny_model(2, [&](ModelConfig& config) {
    config.layer_types = {"autoencoded"};
    config.autoencoder = {.autoencoder_kind = kind, .autoencoder_dim = dim};
    config.qk_norm = qk_norm;
  });
}

TEST(Autoencoded, BeginsAsPlainAttentionWhereTheCodeIsAsWideAsAHead) {
  const auto tokens = torch::arange(40, torch::kLong).view({2, 20});
  for (const bool qk_norm : {false, true}) {
    Decoder same(coded("linear", 8, qk_norm));
    Decoder plain(tiny_model(2, [&](ModelConfig& config) { config.qk_norm = qk_norm; }));
    initialize(*same, 1);
    initialize(*plain, 1);
    EXPECT_TRUE(close(same->forward(tokens), plain->forward(tokens), 1e-6));
    auto cache = same->make_cache({.batch = 2}), other = plain->make_cache({.batch = 2});
    const torch::NoGradGuard no_grad;
    for (int64_t t = 0; t < 20; ++t) {
      const auto positions = Positions::range(t, 1);
      EXPECT_TRUE(close(same->step(tokens.narrow(1, t, 1), positions, cache),
                        plain->step(tokens.narrow(1, t, 1), positions, other), 1e-5));
    }
    EXPECT_EQ(cache.bytes_used(), other.bytes_used());
  }
}

TEST(Autoencoded, ANarrowLinearCodeKeepsTheFirstDimensions) {
  const auto config = coded("linear", 3);
  Decoder model(config);
  initialize(*model, 2);
  const torch::NoGradGuard no_grad;
  auto cache = model->make_cache({.batch = 1, .growth_rows = 1});
  const auto tokens = torch::arange(9, torch::kLong).unsqueeze(0);
  model->step(tokens, Positions::range(0, 9), cache);

  const auto weight = [&](const std::string& name) {
    return model->named_parameters()["model." + name + ".weight"];
  };
  auto x = weight("embed_tokens").index({tokens});
  x = x / (x.pow(2).mean(-1, true) + config.rms_norm_eps).sqrt();
  const Rows rows = cache.rows_of(0).read();
  ASSERT_EQ(rows.streams.size(), 2U);
  for (const size_t stream : {0, 1}) {
    const auto projection = weight(stream == 0 ? "layers.0.self_attn.k_proj"  // not rotated
                                               : "layers.0.self_attn.v_proj");
    const auto heads = torch::matmul(x, projection.t()).unflatten(2, {2, 8}).transpose(1, 2);
    EXPECT_TRUE(close(rows.streams[stream], heads.narrow(3, 0, 3), 1e-5));
  }
}

TEST(Autoencoded, DecodedRowsAreNotRemembered) {
  const auto config = coded("mlp", 2);
  Decoder model(config);
  initialize(*model, 3);
  const torch::NoGradGuard no_grad;
  auto cache = model->make_cache({.batch = 2, .growth_rows = 1});
  for (int64_t t = 0; t < 10; ++t)
    model->step(torch::zeros({2, 1}, torch::kLong), Positions::range(t, 1), cache);
  constexpr int64_t kLayers = 2, kBatch = 2, kTokens = 10, kHeads = 2, kWidths = 2 + 2;
  EXPECT_EQ(cache.bytes_reserved(), kLayers * kBatch * kTokens * kHeads * kWidths * 4);
}

TEST(Autoencoded, RowsAreDecodedForOneLayerAtATime) {
  const torch::InferenceMode inference;
  const auto peak_of = [](int64_t layers) {
    Decoder model(tiny_model(4, [&](ModelConfig& config) {
      config.layer_types = {"autoencoded"};
      config.num_hidden_layers = layers;
      config.head_dim = 32;
      config.autoencoder.autoencoder_dim = 2;
    }));
    initialize(*model, 3);
    return peak_of_decoding(model);
  };
  EXPECT_LT(static_cast<double>(peak_of(6)), 1.2 * static_cast<double>(peak_of(1)));
}

TEST(Autoencoded, AReaderHasNoCoders) {
  Decoder model(tiny_model(2, [](ModelConfig& config) {
    config.layer_types = {"autoencoded"};
    config.kv_source_layers = {0, 0};
  }));
  const auto parameters = model->named_parameters();
  for (const char* name : {"k_proj.weight", "k_encoder.in_proj.weight", "v_decoder.norm.weight"}) {
    EXPECT_TRUE(parameters.contains("model.layers.0.self_attn." + std::string(name))) << name;
    EXPECT_FALSE(parameters.contains("model.layers.1.self_attn." + std::string(name))) << name;
  }
}

TEST(Autoencoded, ImpossibleOptionsAreNamed) {
  const auto complaint = [](const std::function<void(ModelConfig&)>& change) -> std::string {
    try {
      tiny_model(2, [&](ModelConfig& config) {
        config.layer_types = {"autoencoded"};
        change(config);
      });
    } catch (const std::logic_error& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_TRUE(complaint([](auto& c) {
                c.autoencoder.autoencoder_dim = 9;
              }).starts_with("autoencoder_dim: is 9, more than the head_dim of 8"));
  EXPECT_TRUE(complaint([](auto& c) {
                c.attention_sink_logits = true;
              }).starts_with("attention_sink_logits: is an option of full, sliding, fused layers"));
  EXPECT_NE(complaint([](auto& c) {
              c.layer_types = {"full", "autoencoded"};
              c.kv_source_layers = {0, 0};
            }).find("layer 1 (autoencoded) reads layer 0 (full), which keeps something else"),
            std::string::npos);
}

}  // namespace
}  // namespace kvsmith
