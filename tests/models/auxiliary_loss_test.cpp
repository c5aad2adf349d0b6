// Losses besides that on tokens, each against its definition written out.
#include "models/decoder.h"
#include "tests/support/close.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

constexpr int64_t kLength = 20;

at::Tensor text() {
  torch::manual_seed(5);
  return torch::randint(0, 67, {2, kLength}, torch::kLong);
}

Decoder made(const ModelConfig& config) {
  Decoder model(config);
  initialize(*model, 3);
  model->keep_auxiliary_losses(true);
  return model;
}

struct Losses {
  at::Tensor reconstruction, kv;
};

Losses taken_from(Decoder& model) {
  Losses out;
  for (const auto& [name, value] : model->take_auxiliary_losses())
    (name == "kv_loss" ? out.kv : out.reconstruction) = value;
  return out;
}

Losses losses_after_a_step(Decoder& model) {
  model->forward(text());
  return taken_from(model);
}

/// Expects the gradients of two losses on two models of the same weights to agree, and to reach
/// some parameter.
void expect_same_gradients(Decoder& model,
                           const at::Tensor& loss,
                           Decoder& reference,
                           const at::Tensor& want) {
  ASSERT_TRUE(loss.defined());
  EXPECT_TRUE(close(loss, want, 1e-6));
  loss.backward();
  want.backward();
  double largest = 0;
  const auto others = reference->named_parameters();
  for (const auto& [name, parameter] : named_parameters(*model)) {
    const auto& other = others[name].grad();
    ASSERT_EQ(parameter.grad().defined(), other.defined()) << name;
    if (!other.defined()) continue;
    EXPECT_TRUE(close(parameter.grad(), other, 1e-5)) << name;
    largest = std::max(largest, other.abs().max().item<double>());
  }
  EXPECT_GT(largest, 1e-4);
}

ModelConfig coded(int64_t layers,
                  const std::string& kind,
                  bool qk_norm = false,
                  const std::vector<int64_t>& sources = {}) {
  return tiny_model(2, [&](ModelConfig& config) {
    config.num_hidden_layers = layers;
    config.kv_source_layers = sources;
    config.layer_types = {"autoencoded"};
    config.autoencoder = {.autoencoder_kind = kind, .autoencoder_dim = 3};
    config.qk_norm = qk_norm;
  });
}

at::Tensor normed(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return x / (x.square().mean(-1, true) + eps).sqrt() * weight;
}

/// The reconstruction loss of a model of one layer.
at::Tensor naive_reconstruction_loss(Decoder& model) {
  const auto& config = model->config();
  const auto parameters = model->named_parameters();
  const auto of = [&](const std::string& name) { return parameters["model." + name]; };
  const auto own = [&](const std::string& name) { return of("layers.0.self_attn." + name); };
  const auto coder = [&](const std::string& name, const at::Tensor& x) {
    if (config.autoencoder.autoencoder_kind == "linear")
      return torch::matmul(x, own(name + ".out_proj.weight").t());
    const auto inner =
        torch::matmul(x, own(name + ".in_proj.weight").t()) + own(name + ".in_proj.bias");
    const auto active =
        torch::leaky_relu(normed(inner, own(name + ".norm.weight"), config.rms_norm_eps));
    return torch::matmul(active, own(name + ".out_proj.weight").t()) + own(name + ".out_proj.bias");
  };
  const auto x = normed(torch::embedding(of("embed_tokens.weight"), text()),
                        of("layers.0.input_layernorm.weight"), config.rms_norm_eps);
  auto loss = torch::zeros({});
  for (const std::string stream : {"k", "v"}) {
    auto heads = torch::matmul(x, own(stream + "_proj.weight").t()).unflatten(2, {2, 8});
    if (config.qk_norm && stream == "k")
      heads = normed(heads, own("k_norm.weight"), config.rms_norm_eps);
    const auto decoded = coder(stream + "_decoder", coder(stream + "_encoder", heads));
    loss = loss + (decoded - heads).abs().sum() / static_cast<double>(heads.numel());
  }
  return loss;
}

TEST(ReconstructionLoss, EqualsItsDefinitionWithAllGradients) {
  for (const auto& config : {coded(1, "mlp"), coded(1, "mlp", true), coded(1, "linear")}) {
    Decoder model = made(config), reference = made(config);
    const auto losses = losses_after_a_step(model);
    EXPECT_FALSE(losses.kv.defined());
    expect_same_gradients(model, losses.reconstruction, reference,
                          naive_reconstruction_loss(reference));
  }
}

TEST(ReconstructionLoss, IsSummedOverTheLayersThatOwnCodes) {
  const auto loss_of = [](const ModelConfig& config) {
    auto model = made(config);
    return losses_after_a_step(model).reconstruction;
  };
  // the first layer of both is the same, and so is its loss
  const auto one = loss_of(coded(1, "mlp"));
  EXPECT_TRUE(close(loss_of(coded(2, "mlp", false, {0, 0})), one, 1e-6)) << "readers have no codes";
  EXPECT_GT(loss_of(coded(2, "mlp")).item<double>(), 1.2 * one.item<double>());
}

TEST(ReconstructionLoss, IsZeroWhereNothingIsLost) {
  auto config = coded(2, "linear");
  config.autoencoder.autoencoder_dim = 8;
  auto model = made(config);
  EXPECT_LT(losses_after_a_step(model).reconstruction.item<double>(), 1e-6);
}

/// `layers` is a pattern or one source for each layer, as the authors write it.
ModelConfig condensed(const std::string& layers, int64_t forward, int64_t backward) {
  return tiny_model(2, [&](ModelConfig& config) {
    config.num_hidden_layers = 6;
    if (layers.starts_with("lckv")) {
      config.pattern = layers;
    } else {
      config.layer_types = {layers};
    }
    config.forward_passes = forward;
    config.backward_passes = backward;
  });
}

/// Rows of the layers that a layer below reads, after the passes of `model`.
std::vector<at::Tensor> rows_read_from_below(Decoder& model) {
  auto cache = model->make_transient();
  model->step(text(), Positions::range(0, kLength), cache);
  std::vector<at::Tensor> out;
  const KvGraph& graph = model->graph();
  for (int64_t owner = 0; owner < graph.size(); ++owner) {
    bool is_read = false;
    for (int64_t layer = 0; layer < owner; ++layer) is_read |= graph[layer].k_source == owner;
    if (!is_read) continue;
    for (auto& stream : cache.rows_of(owner).read().streams) out.push_back(std::move(stream));
  }
  return out;
}

TEST(KvLoss, EqualsItsDefinitionWithAllGradients) {
  const std::string two_targets = "0_4_3_3_4_5";
  for (const auto& layers : {"lckv", "lckv-sandwich-middle", "lckv-pizza-top", two_targets.c_str()})
    for (const int64_t backward : {1, 2, 3}) {
      SCOPED_TRACE(testing::Message() << layers << ", backward_passes " << backward);
      constexpr int64_t kForward = 3;
      const auto config = condensed(layers, kForward, backward);
      Decoder model = made(config), reference = made(config);
      const auto losses = losses_after_a_step(model);
      EXPECT_FALSE(losses.reconstruction.defined());
      // the pass before the last is the last of a model with one pass less
      const auto after = rows_read_from_below(reference);
      reference->set_passes(kForward, backward - 1);
      const auto before = rows_read_from_below(reference);
      ASSERT_EQ(before.size(), layers == two_targets ? 4U : 2U);
      auto want = torch::zeros({});
      for (size_t i = 0; i < after.size(); ++i)
        want = want + (after[i] - before[i]).square().sum() / static_cast<double>(after[i].numel());
      expect_same_gradients(model, losses.kv, reference, want);
    }
}

TEST(KvLoss, VanishesAsThePassesConverge) {
  const auto loss_of = [](int64_t passes) {
    auto model = made(condensed("lckv", passes - 2, 2));
    return losses_after_a_step(model).kv.item<double>();
  };
  EXPECT_GT(loss_of(2), 10 * loss_of(6));
  EXPECT_LT(loss_of(kLength), 1e-9);
}

TEST(KvLoss, IsAbsentWhereNothingIsIterated) {
  auto model = made(condensed("lckv-sandwich-bottom", 7, 2));
  EXPECT_FALSE(losses_after_a_step(model).kv.defined());
}

TEST(AuxiliaryLosses, AreLeftOnlyWhereTheyAreWanted) {
  const auto config = tiny_model(2, [](ModelConfig& c) {
    c.num_hidden_layers = 6;
    c.layer_types = {"autoencoded"};
    c.pattern = "lckv";
  });
  auto model = made(config);
  const auto expect = [&](bool wanted, const std::string& when) {
    const auto losses = taken_from(model);
    EXPECT_EQ(losses.reconstruction.defined(), wanted) << when;
    EXPECT_EQ(losses.kv.defined(), wanted) << when;
  };
  model->forward(text());
  expect(true, "training");
  expect(false, "taken twice");
  model->eval();
  model->forward(text());
  expect(false, "evaluation");
  model->train();
  {
    const torch::NoGradGuard no_grad;
    model->forward(text());
  }
  expect(false, "no gradients");
  model->keep_auxiliary_losses(false);
  model->forward(text());
  expect(false, "not asked for");
}

}  // namespace
}  // namespace kvsmith
