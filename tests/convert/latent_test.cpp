#include "convert/latent.h"

#include <cmath>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "convert/attention_weights.h"
#include "tests/convert/conversions.h"
#include "tests/support/close.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

std::function<void(ModelConfig&)> to_latents(int64_t rank, int64_t rope) {
  return [=](ModelConfig& c) {
    c.layer_types = {"latent"};
    c.latent.kv_lora_rank = rank;
    c.latent.qk_rope_head_dim = rope;
  };
}

/// Scores of random pairs of inputs at distances that are spread evenly in their logarithm, by the
/// weights of layer 0: [pairs, distances]. Head 2 of four, which reads key/value head 1 of two.
class Scores {
 public:
  explicit Scores(double rope_theta) : theta_(rope_theta) {}

  at::Tensor of_source(const Decoder& model) const {
    const auto w = [&](const char* name) { return weight(model, name); };
    return turned(planes(w("q_proj").narrow(0, 16, 8), query_),
                  planes(w("k_proj").narrow(0, 8, 8), key_));
  }
  at::Tensor of_latent(const Decoder& model) const {
    const auto& sizes = model->config().latent;
    const int64_t rank = sizes.kv_lora_rank, rope = sizes.qk_rope_head_dim;
    const auto w = [&](const char* name) { return weight(model, name); };
    const auto q = w("q_proj").narrow(0, 2 * (8 + rope), 8 + rope);
    const auto down = w("kv_a_proj_with_mqa"), up = w("kv_b_proj").narrow(0, 32, 8);
    const auto still = (torch::matmul(query_, q.narrow(0, 0, 8).t()) *
                        torch::matmul(torch::matmul(key_, down.narrow(0, 0, rank).t()), up.t()))
                           .sum(1, true);
    const auto rotary =
        turned(planes(q.narrow(0, 8, rope), query_), planes(down.narrow(0, rank, rope), key_));
    return (still + rotary) / std::sqrt((8.0 + static_cast<double>(rope)) / 8.0);
  }

 private:
  static at::Tensor weight(const Decoder& model, const std::string& name) {
    return parameter(model, mixer_name(0) + name + ".weight").to(torch::kDouble);
  }
  static at::Tensor planes(const at::Tensor& weight, const at::Tensor& x) {
    return to_planes(torch::matmul(x, weight.t()));
  }
  /// Re(conj(q) k e^(-i w distance)), summed over planes.
  at::Tensor turned(const at::Tensor& q, const at::Tensor& k) const {
    const auto count = q.size(1);
    const auto distance = torch::linspace(0, std::log(1024), 4096, torch::kDouble).exp();
    const auto frequency =
        torch::pow(torch::full({count}, theta_, torch::kDouble),
                   -torch::arange(count, torch::kDouble) / static_cast<double>(count));
    const auto angle = -torch::outer(frequency, distance);
    return torch::real(torch::matmul(q.conj() * k, torch::complex(angle.cos(), angle.sin())));
  }

  static at::Tensor inputs(int64_t seed) {
    torch::manual_seed(seed);
    return torch::randn({20, 32}, torch::kDouble);
  }
  double theta_;
  at::Tensor query_ = inputs(5), key_ = inputs(6);
};

Decoder with_theta(double theta) {
  return random_model(tiny_model(2, [&](ModelConfig& c) { c.rope_theta = theta; }));
}

/// A latent of full rank keeps all that needs no position.
TEST(ConvertToLatent, TheMeanOfScoresOverDistancesIsKept) {
  const torch::NoGradGuard no_grad;
  const auto source = with_theta(1e4);
  const auto out = converted(source, to_latents(32, 4));
  const Scores scores(1e4);
  const auto wanted = scores.of_source(source), found = scores.of_latent(out.model);
  EXPECT_TRUE(close(found.mean(1), wanted.mean(1), 1e-4));
  EXPECT_FALSE(close(found, wanted, 1e-1));
}

/// Keys only in a plane that is folded into another, with an angle between them: the rotated key
/// follows them at every distance better than any that stands still.
TEST(ConvertToLatent, AFoldedPlaneIsFollowed) {
  const torch::NoGradGuard no_grad;
  constexpr double kTheta = 1.1;
  const auto source = with_theta(kTheta);
  for (auto& [name, weight] : named_parameters(*source))
    if (name.ends_with("k_proj.weight"))
      for (int64_t row = 0; row < 16; ++row)
        if (row % 4 != 1) weight[row].zero_();  // plane 1 is left, which turns 0.976 a token
  const auto out = converted(source, to_latents(32, 4));  // planes of 1 and 0.953
  const Scores scores(kTheta);
  const auto wanted = scores.of_source(source), found = scores.of_latent(out.model);
  const double error = (found - wanted).square().mean().item<double>();
  const double still = (wanted - wanted.mean(1, true)).square().mean().item<double>();
  EXPECT_LT(error, 0.88 * still);
}

TEST(ConvertToLatent, LatentsOfFullRankAreExact) {
  const auto one_head = random_model(tiny_model(1));
  EXPECT_TRUE(close(logits(converted(one_head, to_latents(8, 8)).model), logits(one_head), 1e-4));
  // without positions nothing has to be rotated, and two heads fit into a latent of all their rows
  const auto nope =
      random_model(tiny_model(2, [](ModelConfig& c) { c.layer_rope_theta = {0, 0}; }));
  EXPECT_TRUE(close(logits(converted(nope, to_latents(32, 4)).model), logits(nope), 1e-4));
  EXPECT_FALSE(close(logits(converted(nope, to_latents(8, 4)).model), logits(nope), 1e-2));
}

/// Keys only in the planes that stay rotary leave nothing for the latent to blur.
TEST(ConvertToLatent, RotaryPlanesThatAreKeptAreExact) {
  const torch::NoGradGuard no_grad;
  const auto source = random_model(tiny_model(1));
  for (const char* layer : {"model.layers.0.self_attn.", "model.layers.1.self_attn."}) {
    auto k = parameter(source, std::string(layer) + "k_proj.weight");
    for (const int64_t row : {1, 3, 5, 7}) k[row].zero_();  // planes 1 and 3 of 4
  }
  EXPECT_TRUE(close(logits(converted(source, to_latents(8, 4)).model), logits(source), 1e-4));
  EXPECT_FALSE(close(logits(converted(source, to_latents(8, 2)).model), logits(source), 1e-3));
}

/// Planes that turn nearly alike, each key of each head a turned and stretched copy of one: the one
/// plane of the rotated key holds all of them.
TEST(ConvertToLatent, RotaryPlanesThatTurnAlikeAreFolded) {
  const torch::NoGradGuard no_grad;
  const auto source = random_model(tiny_model(2, [](ModelConfig& c) { c.rope_theta = 1.00001; }));
  const auto copies = torch::complex(torch::tensor({1.0, 0.8, -0.5, 0.3, 0.7, -1.1, 0.2, 0.9}),
                                     torch::tensor({0.0, 0.4, 0.6, -0.9, 0.5, 0.1, 1.2, -0.3}))
                          .view({2, 4});
  for (const char* layer : {"model.layers.0.self_attn.", "model.layers.1.self_attn."}) {
    const auto k = parameter(source, std::string(layer) + "k_proj.weight");
    const auto one = to_planes(k.narrow(0, 0, 8).t()).narrow(1, 0, 1).clone();
    for (const int64_t head : {0, 1})
      k.narrow(0, 8 * head, 8).copy_(from_planes(one * copies[head]).t());
  }
  const auto to_one_plane = to_latents(16, 2);  // the rank is for the values
  EXPECT_TRUE(close(logits(converted(source, to_one_plane).model), logits(source), 1e-3));
  const auto other = random_model(tiny_model(2));
  EXPECT_FALSE(close(logits(converted(other, to_one_plane).model), logits(other), 1e-2));
}

TEST(ConvertToLatent, LatentsTakeAnyEvenRotaryWidthUpToThatOfHeads) {
  const auto source = random_model(tiny_model(2));
  const auto error = [&](int64_t rope) {
    const auto made = logits(converted(source, to_latents(32, rope)).model);
    return (made - logits(source)).square().mean().item<double>();
  };
  EXPECT_LT(error(6), error(2));
  expect_error([&] { converted(source, to_latents(32, 10)); }, ExitCode::kConfig,
               "up to the source's");
}

}  // namespace
}  // namespace kvsmith
