#include "configs/head_gates.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "models/decoder.h"
#include "tests/support/close.h"
#include "tests/support/layer_cases.h"

namespace kvsmith {
namespace {

constexpr int64_t kTokens = 29, kSinks = 2, kWindow = 5;

/// A model all of whose gates have one value.
class Gated {
 public:
  Gated(const ModelConfig& config, double alpha)
      : model_(config), layers_(layers_with_head_gates(model_->graph())) {
    initialize(*model_, 3);
    for (const auto& parameter : model_->parameters()) parameter.set_requires_grad(false);
    for (const int64_t layer : layers_) {
      const auto of_heads = torch::full({model_->graph()[layer].kv_heads}, alpha);
      gates_.push_back({of_heads.requires_grad_(), kSinks, kWindow});
    }
  }

  at::Tensor states() {
    KvCache cache = model_->make_transient();
    for (size_t i = 0; i < layers_.size(); ++i)
      cache.replace(layers_[i], std::make_unique<TransientRows>(&gates_[i]));
    return states(std::move(cache));
  }
  at::Tensor plain_states() { return states(model_->make_transient()); }
  /// Of all gates, one layer after the other.
  at::Tensor gradients(bool with_checkpointing) {
    std::vector<at::Tensor> out;
    for (HeadGates& of : gates_) of.alpha.mutable_grad().reset();
    model_->set_gradient_checkpointing(with_checkpointing);
    (states() * torch::arange(32)).square().mean().backward();
    for (const HeadGates& of : gates_) out.push_back(of.alpha.grad());
    return torch::cat(out);
  }

 private:
  at::Tensor states(KvCache cache) {
    torch::manual_seed(5);
    const auto tokens = torch::randint(67, {2, kTokens}, torch::kLong);
    return model_->step(tokens, Positions::range(0, kTokens), cache);
  }

  Decoder model_;
  std::vector<int64_t> layers_;
  std::vector<HeadGates> gates_;
};

std::vector<LayerCase> gated_cases() {
  std::vector<LayerCase> out = layer_cases();
  std::erase_if(
      out, [](const LayerCase& of) { return layers_with_head_gates(KvGraph(of.config)).empty(); });
  return out;
}

class HeadGatesOf : public ::testing::TestWithParam<LayerCase> {};

TEST_P(HeadGatesOf, OneChangesNothing) {
  Gated gated(GetParam().config, 1);
  EXPECT_TRUE(torch::equal(gated.states(), gated.plain_states()));
}

TEST_P(HeadGatesOf, LessChangesTheResultAndCheckpointingNoGradient) {
  Gated gated(GetParam().config, 0.5);
  EXPECT_FALSE(close(gated.states(), gated.plain_states(), 1e-3));
  const auto whole = gated.gradients(false), lean = gated.gradients(true);
  EXPECT_TRUE(close(lean, whole, 1e-5));
  EXPECT_GT(whole.abs().min().item<double>(), 0) << "every gate has a gradient";
}

INSTANTIATE_TEST_SUITE_P(Layers,
                         HeadGatesOf,
                         ::testing::ValuesIn(gated_cases()),
                         [](const auto& test) { return test.param.name; });

TEST(HeadGates, ZeroIsASlidingWindowWithSinks) {
  for (const bool has_logits : {false, true}) {
    const auto config = [&](const std::string& kind) {
      return tiny_model(2, [&](ModelConfig& c) {
        c.layer_types = {kind};
        c.attention_sink_logits = has_logits;
        c.sliding_window = kWindow;
        c.num_sink_tokens = kSinks;
      });
    };
    Gated gated(config("full"), 0), sliding(config("sliding"), 0);
    EXPECT_TRUE(close(gated.states(), sliding.plain_states(), 1e-6)) << has_logits;
  }
}

}  // namespace
}  // namespace kvsmith
