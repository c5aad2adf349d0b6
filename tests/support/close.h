#pragma once

#include <gtest/gtest.h>
#include <torch/types.h>

namespace kvsmith {

/// Passes when `got` and `want` have one shape and differ nowhere by more than
/// `tolerance` * max(1, |want|); otherwise names the worst element and both values.
inline ::testing::AssertionResult close(const at::Tensor& got,
                                        const at::Tensor& want,
                                        double tolerance) {
  if (got.sizes() != want.sizes()) {
    return ::testing::AssertionFailure()
           << "shape " << got.sizes() << ", expected " << want.sizes();
  }
  const auto a = got.detach().to(torch::kDouble).flatten(),
             b = want.detach().to(torch::kDouble).flatten();
  const auto excess = ((a - b).abs() / b.abs().clamp_min(1)).nan_to_num(INFINITY, INFINITY);
  const auto worst = excess.argmax().item<int64_t>();
  if (excess[worst].item<double>() <= tolerance) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << "element " << worst << " is " << a[worst].item<double>() << ", expected "
         << b[worst].item<double>() << " within " << tolerance;
}

/// Gradients of sum(f(inputs) * weight) with respect to each input, for a fixed random weight.
template <class F>
std::vector<at::Tensor> grads_of(const F& f, std::vector<at::Tensor> inputs) {
  for (auto& input : inputs) input = input.detach().clone().requires_grad_(true);
  const auto out = f(inputs);
  torch::manual_seed(99);
  // not randn_like, which would fill in the order of strides: layouts must not change the weight
  (out * torch::randn(out.sizes(), out.options())).sum().backward();
  std::vector<at::Tensor> grads;
  for (const auto& input : inputs) grads.push_back(input.grad());
  return grads;
}

}  // namespace kvsmith
