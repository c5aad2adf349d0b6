#include "evaluate/head_distances.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

class HeadDistances : public ::testing::Test {
 protected:
  HeadDistances() : corpus_(Corpus::open(tiny_corpus(directory_ / "c.h5"))) {}

  /// Three layers, of which the first adds nothing, so that the second sees the same input.
  static LoadedModel model_with(const std::function<void(ModelConfig&)>& change) {
    const torch::NoGradGuard no_grad;
    LoadedModel loaded;
    loaded.model = Decoder(tiny_model(2, [&](ModelConfig& config) {
      config.num_hidden_layers = 3;
      change(config);
    }));
    initialize(*loaded.model, 3);
    auto parameters = loaded.model->named_parameters();
    parameters["model.layers.0.self_attn.o_proj.weight"].zero_();
    parameters["model.layers.0.mlp.down_proj.weight"].zero_();
    return loaded;
  }

  /// Gives head 1 of layer 1 the keys, and head 0 of layer 1 the values, of layer 0.
  static void make_equal(DecoderImpl& model) {
    const torch::NoGradGuard no_grad;
    auto parameters = model.named_parameters();
    const auto head = [&](const std::string& name, int64_t layer, int64_t index) {
      return parameters["model.layers." + std::to_string(layer) + ".self_attn." + name].narrow(
          0, index * 8, 8);
    };
    head("k_proj.weight", 1, 1).copy_(head("k_proj.weight", 0, 1));
    head("v_proj.weight", 1, 0).copy_(head("v_proj.weight", 0, 0));
    const std::string first = "model.layers.0.", second = "model.layers.1.";
    for (auto& item : parameters)
      if (item.key().starts_with(first) && item.key().find("coder") != std::string::npos)
        parameters[second + item.key().substr(first.size())].copy_(item.value());
  }

  TemporaryDirectory directory_;
  Corpus corpus_;
};

TEST_F(HeadDistances, AreZeroWhereLayersHoldTheSame) {
  const struct {
    const char* kind;
    bool qk_norm;
  } cases[] = {{"full", false}, {"full", true}, {"sliding", false}, {"autoencoded", true}};
  for (const auto& c : cases) {
    LoadedModel loaded = model_with([&](ModelConfig& config) {
      config.layer_types = {c.kind};
      config.sliding_window = 5;
      config.qk_norm = c.qk_norm;
    });
    make_equal(*loaded.model);
    const auto all = head_distances(loaded, corpus_, {.context = 32, .max_tokens = 300});
    ASSERT_EQ(all.size(), 4u) << c.kind;
    for (const HeadDistance& of : all) {
      const bool same_keys = of.layer == 1 && of.head == 1;
      const bool same_values = of.layer == 1 && of.head == 0;
      EXPECT_NEAR(*of.keys, same_keys ? 0 : 1.25, same_keys ? 1e-5 : 0.74) << c.kind;
      EXPECT_NEAR(*of.values, same_values ? 0 : 1.25, same_values ? 1e-5 : 0.74) << c.kind;
    }
    EXPECT_EQ(heads_within(all, 0.01), (std::vector<std::string>{"1:0:v", "1:1:k"})) << c.kind;
    EXPECT_TRUE(heads_within(all, 0).empty());
    EXPECT_EQ(heads_within(all, 2.1), (std::vector<std::string>{"1:0", "1:1", "2:0", "2:1"}));
  }
}

TEST_F(HeadDistances, AreThoseOfProjectedInputsBeforeTheRotation) {
  LoadedModel loaded = model_with([](ModelConfig&) {});
  const auto& config = loaded.model->config();
  // one window: the first document of the split, without its last token
  const auto split = corpus_.split("valid");
  std::vector<int32_t> ids(static_cast<size_t>(split->offset(1)) - 1);
  split->read(0, ids);
  const auto all = head_distances(
      loaded, corpus_, {.context = 1000, .max_tokens = static_cast<int64_t>(ids.size())});

  const torch::NoGradGuard no_grad;
  auto parameters = loaded.model->named_parameters();
  auto x = parameters["model.embed_tokens.weight"].index({torch::tensor(ids, torch::kLong)});
  x = x / (x.pow(2).mean(-1, true) + config.rms_norm_eps).sqrt();
  for (const bool keys : {true, false}) {
    const auto projected = [&](const std::string& layer) {
      const auto name =
          "model.layers." + layer + (keys ? ".self_attn.k_proj" : ".self_attn.v_proj");
      return torch::matmul(x, parameters[name + ".weight"].t()).unflatten(1, {2, 8});
    };
    const auto a = projected("1"), b = projected("0");
    for (int64_t head = 0; head < 2; ++head) {
      const auto one = a.select(1, head), other = b.select(1, head);
      const double want = 2 * (one - other).abs().sum().item<double>() /
                          (one.abs().sum() + other.abs().sum()).item<double>();
      const HeadDistance& got = all[static_cast<size_t>(head)];
      EXPECT_NEAR(keys ? *got.keys : *got.values, want, 1e-4) << head;
    }
  }
}

TEST_F(HeadDistances, AreOnlyOfWhatLayersCouldShare) {
  LoadedModel shared = model_with([](ModelConfig& config) {
    config.k_source_layers = {0, 0, 2};
    config.v_source_layers = {0, 1, 2};
  });
  const auto all = head_distances(shared, corpus_, {.context = 16, .max_tokens = 50});
  ASSERT_EQ(all.size(), 4u);
  EXPECT_FALSE(all[0].keys) << "layer 1 has none";
  EXPECT_TRUE(all[0].values);
  EXPECT_FALSE(all[3].keys) << "layer 1 has none";
  EXPECT_TRUE(all[3].values);

  LoadedModel latent = model_with([](ModelConfig& config) { config.layer_types = {"latent"}; });
  expect_error([&] { head_distances(latent, corpus_, {}); }, ExitCode::kConfig,
               "are for attention and autoencoded layers");
}

}  // namespace
}  // namespace kvsmith
