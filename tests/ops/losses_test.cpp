#include "ops/losses.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "tests/support/allocations.h"
#include "tests/support/close.h"

namespace kvsmith {
namespace {

TEST(LinearCrossEntropy, EqualsTheUnfusedLossWithItsGradients) {
  torch::manual_seed(5);
  // more rows than one slice of logits holds, so that slices are joined
  const int64_t rows = 300, vocab = 70001;
  const auto hidden = torch::randn({rows, 6}), weight = torch::randn({vocab, 6}) * 0.3;
  auto targets = torch::randint(0, vocab, {rows}, torch::kLong);
  targets[7] = targets[299] = -1;
  const auto fused = [&](const auto& t) { return linear_cross_entropy(t[0], t[1], targets); };
  const auto plain = [&](const auto& t) {
    return at::cross_entropy_loss(torch::matmul(t[0], t[1].t()), targets, {}, at::Reduction::Sum,
                                  -1);
  };
  EXPECT_TRUE(close(fused(std::vector{hidden, weight}), plain(std::vector{hidden, weight}), 1e-5));
  const auto got = grads_of(fused, {hidden, weight}), want = grads_of(plain, {hidden, weight});
  EXPECT_TRUE(close(got[0], want[0], 1e-4));
  EXPECT_TRUE(close(got[1], want[1], 1e-4));
}

TEST(LinearCrossEntropy, IsZeroWithoutTargets) {
  const auto targets = torch::full({4}, -1, torch::kLong);
  const auto loss = linear_cross_entropy(torch::randn({4, 3}), torch::randn({9, 3}), targets);
  EXPECT_EQ(loss.item<double>(), 0);
}

TEST(LinearCrossEntropy, SpendsNothingOnAFrozenWeight) {
  constexpr int64_t kVocab = 4000, kWidth = 64, kRows = 8;
  const auto targets = torch::arange(kRows, torch::kLong);
  const auto peak_of = [&](bool learns) {
    auto hidden = torch::ones({kRows, kWidth}).requires_grad_(true);
    const auto weight = torch::ones({kVocab, kWidth}).requires_grad_(learns);
    const AllocationCounter allocations;
    linear_cross_entropy(hidden, weight, targets).backward();
    EXPECT_TRUE(hidden.grad().defined());
    EXPECT_EQ(weight.grad().defined(), learns);
    return allocations.peak_bytes();
  };
  constexpr int64_t kGradient = kVocab * kWidth * 4;
  EXPECT_LT(peak_of(false), peak_of(true) - kGradient / 2);
  EXPECT_LT(peak_of(false), kGradient);
}

TEST(LinearLogProbabilities, EqualTheUnfusedOnesWithTheirGradients) {
  torch::manual_seed(6);
  const int64_t rows = 300, vocab = 70001;  // more than one slice
  const auto hidden = torch::randn({rows, 6}), weight = torch::randn({vocab, 6}) * 0.3;
  auto targets = torch::randint(0, vocab, {rows}, torch::kLong);
  targets[7] = targets[299] = -1;
  const auto fused = [&](const auto& t) { return linear_log_probabilities(t[0], t[1], targets); };
  const auto plain = [&](const auto& t) {
    return -at::cross_entropy_loss(torch::matmul(t[0], t[1].t()), targets, {}, at::Reduction::None,
                                   -1);
  };
  const std::vector inputs = {hidden, weight};
  EXPECT_TRUE(close(fused(inputs), plain(inputs), 1e-5));
  EXPECT_EQ(fused(inputs)[7].item<double>(), 0);
  const auto got = grads_of(fused, inputs), want = grads_of(plain, inputs);
  EXPECT_TRUE(close(got[0], want[0], 1e-4));
  EXPECT_TRUE(close(got[1], want[1], 1e-4));
}

TEST(LinearLogProbabilities, SpendNothingOnAFrozenWeight) {
  auto hidden = torch::ones({3, 8}).requires_grad_(true);
  const auto weight = torch::ones({11, 8});
  linear_log_probabilities(hidden, weight, torch::arange(3, torch::kLong)).sum().backward();
  EXPECT_TRUE(hidden.grad().defined());
  EXPECT_FALSE(weight.grad().defined());
  EXPECT_EQ(
      linear_log_probabilities(hidden.narrow(0, 0, 0), weight, torch::empty({0}, torch::kLong))
          .numel(),
      0);
}

/// (1 - share) cross-entropy + share T^2 KL, written with all logits at once.
at::Tensor plain_distillation(const at::Tensor& logits,
                              const at::Tensor& targets,
                              const at::Tensor& teacher_logits,
                              double temperature,
                              double share) {
  const auto cross_entropy = at::cross_entropy_loss(logits, targets, {}, at::Reduction::Sum, -1);
  const auto learnt = targets.ge(0).unsqueeze(1);
  const auto p = torch::softmax(teacher_logits / temperature, -1);
  const auto divergence =
      (p * (p.log() - torch::log_softmax(logits / temperature, -1)) * learnt).sum();
  return cross_entropy * (1 - share) + divergence * share * temperature * temperature;
}

TEST(LinearDistillation, EqualsTheUnfusedLossWithItsGradients) {
  torch::manual_seed(7);
  const int64_t rows = 300, vocab = 70001;  // more than one slice
  const auto hidden = torch::randn({rows, 6}), weight = torch::randn({vocab, 6}) * 0.3;
  const auto teacher_hidden = torch::randn({rows, 4}), teacher = torch::randn({vocab, 4}) * 0.3;
  auto targets = torch::randint(0, vocab, {rows}, torch::kLong);
  targets[7] = targets[299] = -1;
  for (const auto& [temperature, share] : {std::pair(1.0, 0.3), {2.5, 0.9}, {1.0, 1.0}}) {
    const auto fused = [&](const auto& t) {
      return linear_distillation(t[0], t[1], targets,
                                 {.hidden = teacher_hidden,
                                  .weight = teacher,
                                  .temperature = temperature,
                                  .share = share})
          .total;
    };
    const auto plain = [&](const auto& t) {
      return plain_distillation(torch::matmul(t[0], t[1].t()), targets,
                                torch::matmul(teacher_hidden, teacher.t()), temperature, share);
    };
    const std::vector inputs = {hidden, weight};
    EXPECT_TRUE(close(fused(inputs), plain(inputs), 1e-5));
    const auto got = grads_of(fused, inputs), want = grads_of(plain, inputs);
    EXPECT_TRUE(close(got[0], want[0], 1e-4));
    EXPECT_TRUE(close(got[1], want[1], 1e-4));
  }
}

TEST(LinearDistillation, FromNamedTokensEqualsTheUnfusedLossWithItsGradients) {
  torch::manual_seed(8);
  const int64_t rows = 300, vocab = 70001, k = 9;  // more than one slice
  const auto hidden = torch::randn({rows, 6}), weight = torch::randn({vocab, 6});
  const auto teacher_hidden = torch::randn({rows, 4}) * 3, teacher = torch::randn({vocab, 4});
  auto targets = torch::randint(0, vocab, {rows}, torch::kLong);
  targets[7] = targets[299] = -1;
  for (const double temperature : {1.0, 2.5}) {
    const auto top = top_tokens(teacher_hidden, teacher, temperature, k);
    const auto fused = [&](const auto& t) {
      return linear_distillation(
                 t[0], t[1], targets,
                 {.hidden = {}, .weight = {}, .top = top, .temperature = temperature, .share = 0.6})
          .total;
    };
    // k named tokens and one more that stands for all others
    const auto plain = [&](const auto& t) {
      const auto logits = torch::matmul(t[0], t[1].t());
      const auto model = torch::softmax(logits / temperature, -1).gather(1, top.ids);
      const auto wanted = top.log_p.to(torch::kFloat).exp();
      const auto with_rest = [](const at::Tensor& p) {
        return torch::cat({p, 1 - p.sum(1, true)}, 1);
      };
      const auto p = with_rest(wanted), q = with_rest(model);
      const auto learnt = targets.ge(0).unsqueeze(1);
      const auto divergence = (p * (p.log() - q.log()) * learnt).sum();
      return at::cross_entropy_loss(logits, targets, {}, at::Reduction::Sum, -1) * 0.4 +
             divergence * 0.6 * temperature * temperature;
    };
    const std::vector inputs = {hidden, weight};
    EXPECT_TRUE(close(fused(inputs), plain(inputs), 1e-5));
    const auto got = grads_of(fused, inputs), want = grads_of(plain, inputs);
    EXPECT_TRUE(close(got[0], want[0], 1e-4));
    EXPECT_TRUE(close(got[1], want[1], 1e-4));
  }
}

TEST(LinearDistillation, FromAllTokensNamedIsTheWholeDistribution) {
  torch::manual_seed(9);
  const auto hidden = torch::randn({20, 6}), weight = torch::randn({50, 6});
  const auto teacher_hidden = torch::randn({20, 6}), targets = torch::zeros({20}, torch::kLong);
  const auto named = linear_distillation(
      hidden, weight, targets,
      {.hidden = {}, .weight = {}, .top = top_tokens(teacher_hidden, weight, 1, 50)});
  const auto whole =
      linear_distillation(hidden, weight, targets, {.hidden = teacher_hidden, .weight = weight});
  EXPECT_TRUE(close(named.divergence, whole.divergence, 2e-3));  // fp16 probabilities
}

TEST(LinearDistillation, IsZeroAtTheTeacher) {
  const auto hidden = torch::randn({20, 6}), weight = torch::randn({50, 6});
  const auto loss = linear_distillation(hidden, weight, torch::zeros({20}, torch::kLong),
                                        {.hidden = hidden, .weight = weight});
  EXPECT_NEAR(loss.divergence.item<double>(), 0, 1e-5);
  EXPECT_NEAR(loss.total.item<double>(), 0, 1e-5);
  EXPECT_TRUE(close(loss.cross_entropy,
                    linear_cross_entropy(hidden, weight, torch::zeros({20}, torch::kLong)), 1e-6));
}

}  // namespace
}  // namespace kvsmith
