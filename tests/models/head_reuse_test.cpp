#include "models/decoder.h"
#include "tests/support/close.h"
#include "tests/support/decoding.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

using Items = std::vector<std::string>;

ModelConfig coded(const Items& reused,
                  int64_t layers = 4,
                  const std::function<void(ModelConfig&)>& change = {}) {
  return tiny_model(2, [&](ModelConfig& config) {
    config.num_hidden_layers = layers;
    config.layer_types = {"autoencoded"};
    config.qk_norm = true;
    config.autoencoder.reused_heads = reused;
    if (change) change(config);
  });
}

Decoder made(const ModelConfig& config) {
  Decoder model(config);
  initialize(*model, 5);
  return model;
}

std::string layer_name(int64_t layer) { return "model.layers." + std::to_string(layer) + "."; }

/// A model of four layers with own heads, of which layers 0 to 2 add nothing to the residual
/// stream: all see the same input. All have the coders of layer 0.
Decoder with_equal_inputs_and_coders() {
  Decoder model = made(coded({}));
  auto parameters = model->named_parameters();
  for (int64_t layer = 0; layer < 3; ++layer) {
    parameters[layer_name(layer) + "self_attn.o_proj.weight"].zero_();
    parameters[layer_name(layer) + "mlp.down_proj.weight"].zero_();
  }
  const std::string first = layer_name(0);
  for (const auto& item : parameters) {
    if (!item.key().starts_with(first) || item.key().find("coder") == std::string::npos) continue;
    for (int64_t layer = 1; layer < 4; ++layer)
      parameters[layer_name(layer) + item.key().substr(first.size())].copy_(item.value());
  }
  return model;
}

TEST(HeadReuse, IsTheSameAsAHeadThatHoldsWhatTheOneBelowHolds) {
  const torch::NoGradGuard no_grad;
  Decoder whole = with_equal_inputs_and_coders();
  auto from = whole->named_parameters();
  const auto tokens = torch::arange(40, torch::kLong).view({2, 20});
  const auto before = whole->forward(tokens);
  const auto rows_of = [&](int64_t layer, const std::string& name, int64_t head) {
    return from[layer_name(layer) + "self_attn." + name + ".weight"].narrow(0, head * 8, 8);
  };
  for (int64_t layer = 1; layer < 4; ++layer)
    for (const char* name : {"k_proj", "v_proj"})
      rows_of(layer, name, 1).copy_(rows_of(layer - 1, name, 1));
  rows_of(3, "k_proj", 0).copy_(rows_of(2, "k_proj", 0));

  Decoder reused = made(coded({"1:1", "2:1", "3:1", "3:0:k"}));
  auto to = reused->named_parameters();
  EXPECT_FALSE(to.contains("model.layers.3.self_attn.k_proj.weight"));
  for (auto& item : to)  // head 0 comes first and is what is left
    item.value().copy_(from[item.key()].narrow(0, 0, item.value().size(0)));

  const auto want = whole->forward(tokens);
  EXPECT_GT((want - before).abs().max().item<double>(), 1e-3) << "the heads matter";
  EXPECT_TRUE(close(reused->forward(tokens), want, 1e-5));
  auto cache = reused->make_cache({.batch = 2, .growth_rows = 1});
  for (int64_t t = 0; t < 20; ++t) {
    const auto hidden = reused->step(tokens.narrow(1, t, 1), Positions::range(t, 1), cache);
    EXPECT_TRUE(close(reused->logits(hidden), want.narrow(1, t, 1), 1e-5)) << t;
  }

  // with the same parameters, the other heads make another model
  Decoder other = made(coded({"1:0", "2:0", "3:0", "3:1:k"}));
  auto others = other->named_parameters();
  for (auto& item : others) item.value().copy_(to[item.key()]);
  EXPECT_GT((other->forward(tokens) - want).abs().max().item<double>(), 1e-3);
}

TEST(HeadReuse, OnlyHeadsOfTheirOwnAreStored) {
  constexpr int64_t kBatch = 2, kTokens = 10, kCode = 4, kBytes = 4;
  const struct {
    Items items;
    int64_t heads;  // keys and values of four layers with two heads
  } cases[] = {{{}, 16},
               {{"1:1:k"}, 15},
               {{"1:0:v", "1:1:v"}, 14},
               {{"1:1", "2:1", "3:1", "3:0:k"}, 9},
               {{"1:0", "1:1", "2:0", "2:1", "3:0", "3:1"}, 4}};
  for (const auto& c : cases) {
    const torch::NoGradGuard no_grad;
    Decoder model = made(coded(c.items));
    auto cache = model->make_cache({.batch = kBatch, .growth_rows = 1});
    for (int64_t t = 0; t < kTokens; ++t)
      model->step(torch::zeros({kBatch, 1}, torch::kLong), Positions::range(t, 1), cache);
    EXPECT_EQ(cache.bytes_reserved(), kBatch * kTokens * c.heads * kCode * kBytes);
    EXPECT_EQ(cache.bytes_used(), kBatch * kv_cache_bytes(model->config(), kTokens, kBytes));
  }
}

TEST(HeadReuse, ReadersSeeTheHeadsOfTheLayerBelowInTheirPlaces) {
  const torch::NoGradGuard no_grad;
  Decoder model = made(coded({"1:0:k", "1:1:v", "2:0:k"}));
  auto cache = model->make_cache({.batch = 1});
  model->step(torch::arange(9, torch::kLong).unsqueeze(0), Positions::range(0, 9), cache);
  const auto shown = model->shown_rows(cache);
  const auto same = [&](size_t layer, size_t stream, int64_t head) {
    return torch::equal(shown[layer].streams[stream].select(1, head),
                        shown[layer - 1].streams[stream].select(1, head));
  };
  EXPECT_TRUE(same(1, 0, 0) && same(1, 1, 1) && same(2, 0, 0));
  EXPECT_FALSE(same(1, 0, 1) || same(1, 1, 0) || same(2, 1, 1) || same(3, 0, 0));
}

TEST(HeadReuse, DecodedRowsOfTwoLayersAtMostAreAlive) {
  const torch::InferenceMode inference;
  const auto peak_of = [](int64_t layers) {
    Items items;
    for (int64_t layer = 1; layer < layers; ++layer) items.push_back(std::to_string(layer) + ":1");
    Decoder model = made(coded(items, layers, [](ModelConfig& config) {
      config.head_dim = 32;
      config.autoencoder.autoencoder_dim = 2;
    }));
    return peak_of_decoding(model);
  };
  EXPECT_LT(static_cast<double>(peak_of(8)), 1.1 * static_cast<double>(peak_of(2)));
}

}  // namespace
}  // namespace kvsmith
