// What only layers that read ahead promise (arXiv:2405.10637): exact prefixes, convergence, and
// gradients through the last passes.
#include "core/text.h"
#include "models/decoder.h"
#include "tests/support/close.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

constexpr int64_t kLength = 24;

Decoder condensed(const std::string& pattern, int64_t forward, int64_t backward) {
  Decoder model(tiny_model(2, [&](ModelConfig& config) {
    config.num_hidden_layers = 6;
    config.pattern = pattern;
    config.forward_passes = forward;
    config.backward_passes = backward;
  }));
  initialize(*model, 3);
  model->eval();
  return model;
}

at::Tensor text() {
  torch::manual_seed(5);
  return torch::randint(0, 67, {2, kLength}, torch::kLong);
}

/// Token by token, which is the model's definition.
at::Tensor sequential(Decoder model, const at::Tensor& tokens) {
  const torch::NoGradGuard no_grad;
  auto cache = model->make_cache({.batch = tokens.size(0)});
  std::vector<at::Tensor> out;
  for (int64_t t = 0; t < tokens.size(1); ++t)
    out.push_back(
        model->logits(model->step(tokens.narrow(1, t, 1), Positions::range(t, 1), cache)));
  return torch::cat(out, 1);
}

class Lckv : public ::testing::TestWithParam<const char*> {};

TEST_P(Lckv, AfterNPassesExactlyTheFirstNTokensAreExact) {
  const auto tokens = text();
  const auto exact = sequential(condensed(GetParam(), 7, 2), tokens);
  for (const int64_t passes : {1, 2, 3, 6, 9}) {
    auto model = condensed(GetParam(), passes - 1, 1);
    const auto got = model->forward(tokens).detach();
    EXPECT_TRUE(close(got.narrow(1, 0, passes), exact.narrow(1, 0, passes), 2e-5)) << passes;
    constexpr int64_t kConverged = 4;  // the next token is not exact, but soon close to it
    if (passes < kConverged) {
      EXPECT_GT((got - exact).select(1, passes).abs().max().item<double>(), 1e-5) << passes;
    }
  }
}

TEST_P(Lckv, ConvergesToTheSequentialModel) {
  const auto tokens = text();
  const auto exact = sequential(condensed(GetParam(), 7, 2), tokens);
  double last = INFINITY;
  for (const int64_t passes : {int64_t{2}, int64_t{6}, int64_t{12}, int64_t{20}, kLength}) {
    const auto got = condensed(GetParam(), passes - 1, 1)->forward(tokens).detach();
    const double error = (got - exact).abs().max().item<double>();
    EXPECT_LT(error, last + 1e-6) << passes;
    last = error;
  }
  EXPECT_LT(last, 2e-5);
}

TEST_P(Lckv, ChunksNoLongerThanThePassesAreExact) {
  const auto tokens = text();
  const torch::NoGradGuard no_grad;
  auto model = condensed(GetParam(), 3, 1);
  const auto exact = sequential(model, tokens);
  auto cache = model->make_cache({.batch = 2});
  for (int64_t first = 0; first < kLength; first += 4) {
    const auto got =
        model->logits(model->step(tokens.narrow(1, first, 4), Positions::range(first, 4), cache));
    EXPECT_TRUE(close(got, exact.narrow(1, first, 4), 2e-5)) << first;
  }
}

TEST_P(Lckv, TheSharedKeysLearnOnlyThroughASecondPassWithGradient) {
  const KvGraph graph(condensed(GetParam(), 7, 2)->config());
  int64_t target = 0;
  for (int64_t i = 0; i < graph.size(); ++i)
    if (graph.reads_ahead(i)) target = graph[i].k_source;
  // Does the loss see the target's keys through a layer below it? Cut its own use of them off.
  const auto gradient = [&](int64_t backward) {
    auto model = condensed(GetParam(), 7, backward);
    const std::string layer = cat("model.layers.", target, ".self_attn.");
    for (auto& [name, value] : named_parameters(*model)) {
      const torch::NoGradGuard no_grad;
      const auto above = [&] {
        for (int64_t i = target; i < graph.size(); ++i)
          if (graph[i].k_source == target &&
              name == cat("model.layers.", i, ".self_attn.o_proj.weight"))
            return true;
        return false;
      };
      if (above()) value.zero_();
    }
    model->forward(text()).pow(2).sum().backward();
    for (auto& [name, value] : named_parameters(*model))
      if (name == layer + "k_proj.weight") return value.grad().abs().max().item<double>();
    return -1.0;
  };
  EXPECT_EQ(gradient(1), 0);
  EXPECT_GT(gradient(2), 0);
}

TEST_P(Lckv, AnObserverSeesTheLastPassOfEachLayer) {
  auto model = condensed(GetParam(), 3, 2);
  std::vector<int64_t> layers;
  const DecoderImpl::Observation observation(
      *model, [&](const MixerPass& pass) { layers.push_back(pass.layer); });
  model->forward(text());
  EXPECT_EQ(layers, (std::vector<int64_t>{0, 1, 2, 3, 4, 5}));
}

INSTANTIATE_TEST_SUITE_P(
    Patterns,
    Lckv,
    ::testing::Values("lckv", "lckv-sandwich-middle", "lckv-pizza-top", "lckv-lasagna-top"),
    [](const auto& test) {
      std::string name = test.param;
      std::ranges::replace(name, '-', '_');
      return name;
    });

TEST(LckvWithoutCycles, RunsOnePass) {
  const auto tokens = text();
  EXPECT_TRUE(torch::equal(condensed("lckv-sandwich-bottom", 7, 2)->forward(tokens),
                           condensed("lckv-sandwich-bottom", 0, 1)->forward(tokens)));
}

TEST(LckvFirstToken, SeesNothingAndStaysFiniteForwardAndBackward) {
  auto model = condensed("lckv-pizza-top", 2, 2);
  const auto one = text().narrow(1, 0, 1);
  const auto logits = model->forward(one);
  EXPECT_TRUE(logits.isfinite().all().item<bool>());
  model->forward(text()).pow(2).sum().backward();
  for (const auto& [name, value] : named_parameters(*model))
    EXPECT_TRUE(value.grad().isfinite().all().item<bool>()) << name;
}

}  // namespace
}  // namespace kvsmith
