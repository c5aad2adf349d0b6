#include "ops/checkpoint.h"

#include <gtest/gtest.h>
#include <torch/types.h>

#include "tests/support/allocations.h"

namespace kvsmith {
namespace {

at::Tensor parameter(int64_t rows, int64_t columns, uint64_t seed) {
  torch::manual_seed(seed);
  return torch::randn({rows, columns}).requires_grad_();
}

struct Gradients {
  std::vector<at::Tensor> of;
  int calls = 0;
};

/// A chain of three functions of two tensors, each with its parameter and two outputs.
Gradients chain(bool is_checkpointed) {
  auto x = parameter(4, 8, 1), y = parameter(4, 8, 2);
  std::vector<at::Tensor> weights;
  Gradients out;
  std::vector<at::Tensor> values = {x, y};
  for (uint64_t i = 0; i < 3; ++i) {
    const auto& weight = weights.emplace_back(parameter(8, 8, 3 + i));
    const TensorFunction function = [weight, &out](const std::vector<at::Tensor>& in) {
      ++out.calls;
      const auto mixed = torch::tanh(torch::matmul(in[0], weight) + in[1]);
      return std::vector<at::Tensor>{mixed, in[1] * mixed};
    };
    values = is_checkpointed ? checkpointed(function, values) : function(values);
  }
  (values[0].sum() + values[1].square().sum()).backward();
  out.of = {x.grad(), y.grad()};
  for (const auto& weight : weights) out.of.push_back(weight.grad());
  return out;
}

TEST(Checkpoint, GivesTheGradientsOfAPlainCall) {
  const Gradients plain = chain(false), again = chain(true);
  EXPECT_EQ(plain.calls, 3);
  EXPECT_EQ(again.calls, 6);
  for (size_t i = 0; i < plain.of.size(); ++i) {
    ASSERT_TRUE(again.of[i].defined()) << i;
    EXPECT_TRUE(torch::equal(plain.of[i], again.of[i])) << i;
  }
}

TEST(Checkpoint, LeavesOutWhatNeedsNoGradient) {
  const auto x = torch::ones({2, 2}), y = torch::ones({2, 2}).requires_grad_();
  const auto out = checkpointed(
      [](const auto& in) { return std::vector<at::Tensor>{in[0] * in[1], in[0] + 1}; }, {x, y});
  out[0].sum().backward();
  EXPECT_FALSE(x.grad().defined());
  EXPECT_TRUE(torch::equal(y.grad(), torch::ones({2, 2})));
}

TEST(Checkpoint, ReachesParametersWhereNoInputNeedsAGradient) {
  const auto x = torch::ones({2, 2}), weight = parameter(2, 2, 1);
  const auto out = checkpointed(
      [weight](const auto& in) { return std::vector<at::Tensor>{torch::matmul(in[0], weight)}; },
      {x}, /*learns=*/true);
  out[0].sum().backward();
  EXPECT_TRUE(torch::equal(weight.grad(), torch::full({2, 2}, 2.0)));
}

TEST(Checkpoint, PassesUndefinedTensorsOn) {
  const auto x = torch::ones({2}).requires_grad_();
  const auto out = checkpointed(
      [](const auto& in) {
        EXPECT_FALSE(in[0].defined());
        return std::vector<at::Tensor>{{}, in[1] * 3, {}};
      },
      {at::Tensor{}, x});
  EXPECT_FALSE(out[0].defined());
  EXPECT_FALSE(out[2].defined());
  out[1].sum().backward();
  EXPECT_TRUE(torch::equal(x.grad(), torch::full({2}, 3.0)));
}

TEST(Checkpoint, KeepsNothingButInputsAndOutputs) {
  const auto live_after = [](bool is_checkpointed) {
    const auto x = parameter(64, 64, 1);
    const AllocationCounter allocations;
    const TensorFunction function = [](const std::vector<at::Tensor>& in) {
      return std::vector<at::Tensor>{in[0].tanh().exp().sin().tanh()};
    };
    const auto out = is_checkpointed ? checkpointed(function, {x}) : function({x});
    return allocations.live_bytes();
  };
  constexpr int64_t kOne = int64_t{64} * 64 * 4;
  EXPECT_GE(live_after(false), 3 * kOne);
  EXPECT_LT(live_after(true), 2 * kOne);
}

TEST(Checkpoint, IsAPlainCallWhereNothingNeedsAGradient) {
  const auto frozen =
      checkpointed([](const auto& in) { return std::vector{in[0] + 1}; }, {torch::ones({1})});
  EXPECT_FALSE(frozen[0].requires_grad());
  const torch::NoGradGuard no_grad;
  const auto x = torch::ones({1}).requires_grad_();
  const auto out = checkpointed([](const auto& in) { return std::vector{in[0] + 1}; }, {x});
  EXPECT_FALSE(out[0].requires_grad());
}

}  // namespace
}  // namespace kvsmith
