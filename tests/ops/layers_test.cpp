#include "ops/layers.h"

#include <cmath>

#include "ops/losses.h"
#include "tests/support/allocations.h"
#include "tests/support/close.h"

namespace kvsmith {
namespace {

TEST(Rotate, MatchesTheFormulaInHalfSplitLayout) {
  torch::manual_seed(3);
  const auto x = torch::randn({1, 1, 3, 4}, torch::kDouble);
  const auto got = rotate(x.to(torch::kFloat), Positions::range(5, 3), 100.0);
  for (int64_t t = 0; t < 3; ++t) {
    for (int64_t pair = 0; pair < 2; ++pair) {
      const double angle =
          static_cast<double>(5 + t) * std::pow(100.0, -static_cast<double>(2 * pair) / 4);
      const double a = x[0][0][t][pair].item<double>(), b = x[0][0][t][pair + 2].item<double>();
      EXPECT_NEAR(got[0][0][t][pair].item<double>(), a * std::cos(angle) - b * std::sin(angle),
                  1e-5);
      EXPECT_NEAR(got[0][0][t][pair + 2].item<double>(), b * std::cos(angle) + a * std::sin(angle),
                  1e-5);
    }
  }
}

TEST(Rotate, GradientIsTheRotationBack) {
  torch::manual_seed(4);
  const auto x = torch::randn({2, 3, 5, 8});
  const auto at = Positions::range(7, 5);
  const auto plain = [&](const std::vector<at::Tensor>& t) {
    const auto [cos, sin] = at.rotary(1e4, 8);
    const auto a = t[0].narrow(-1, 0, 4), b = t[0].narrow(-1, 4, 4);
    return torch::cat({a * cos - b * sin, b * cos + a * sin}, -1);
  };
  const auto got = grads_of([&](const auto& t) { return rotate(t[0], at, 1e4); }, {x});
  EXPECT_TRUE(close(got[0], grads_of(plain, {x})[0], 1e-6));
}

TEST(Rotate, LeavesALayerWithoutPositionsAlone) {
  const auto x = torch::randn({1, 2, 3, 4});
  EXPECT_TRUE(rotate(x, Positions::range(5, 3), 0).is_same(x));
}

TEST(Heads, AreNeighboursInTheWidthOfAToken) {
  const auto x = torch::arange(2 * 5 * 12).view({2, 5, 12});
  const auto heads = split_heads(x, 4);
  ASSERT_EQ(heads.sizes(), (std::vector<int64_t>{2, 3, 5, 4}));
  for (int64_t head = 0; head < 3; ++head)
    EXPECT_TRUE(heads.select(1, head).equal(x.narrow(2, 4 * head, 4)));
  EXPECT_TRUE(merge_heads(heads).equal(x));
}

TEST(FrozenWeights, LeaveTheOtherGradientsAsTheyAre) {
  torch::manual_seed(6);
  const auto x = torch::randn({5, 6});
  const auto targets = torch::arange(5, torch::kLong);
  const auto norm = torch::randn({6}), matrix = torch::randn({9, 6});
  const auto gradient = [&](bool learns) {
    const auto a = norm.clone().requires_grad_(learns), b = matrix.clone().requires_grad_(learns);
    auto input = x.clone().requires_grad_(true);
    linear_cross_entropy(rms_norm(input, a, 1e-5), b, targets).backward();
    EXPECT_EQ(a.grad().defined() && b.grad().defined(), learns);
    EXPECT_EQ(a.grad().defined() || b.grad().defined(), learns);
    return input.grad();
  };
  EXPECT_TRUE(torch::equal(gradient(false), gradient(true)));
}

TEST(Linear, GivesFp32GradientsToFp32WeightsOfABf16Pass) {
  auto weight = torch::randn({4, 3}).requires_grad_(true);
  const auto out = kvsmith::linear(torch::randn({2, 3}).to(torch::kBFloat16), weight);
  EXPECT_EQ(out.scalar_type(), torch::kBFloat16);
  out.sum().backward();
  EXPECT_EQ(weight.grad().scalar_type(), torch::kFloat);
}

TEST(RmsNorm, MatchesTheFormula) {
  torch::manual_seed(6);
  const auto x = torch::randn({5, 7}), weight = torch::randn({7});
  const auto want = x / (x.pow(2).mean(-1, true) + 1e-5).sqrt() * weight;
  EXPECT_TRUE(close(rms_norm(x, weight, 1e-5), want, 1e-6));
  const auto got = grads_of([](const auto& t) { return rms_norm(t[0], t[1], 1e-5); }, {x, weight});
  const auto plain = grads_of(
      [](const auto& t) { return t[0] / (t[0].pow(2).mean(-1, true) + 1e-5).sqrt() * t[1]; },
      {x, weight});
  EXPECT_TRUE(close(got[0], plain[0], 1e-5));
  EXPECT_TRUE(close(got[1], plain[1], 1e-5));
}

}  // namespace
}  // namespace kvsmith
