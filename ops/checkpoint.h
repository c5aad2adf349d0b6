#pragma once

#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

namespace kvsmith {

using TensorFunction = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

/// function(inputs), whose inner results are not kept for the backward pass but computed again in
/// it (gradient checkpointing, arXiv:1604.06174). Gradients reach `inputs`, and the parameters that
/// `function` uses; `learns` says that some of these need one even if no input does. It has to give
/// the same result twice, so it draws no random numbers, and it owns or outlives all that it refers
/// to. Where no gradient is needed this is a plain call. Inputs and outputs may be undefined.
std::vector<at::Tensor> checkpointed(const TensorFunction& function,
                                     const std::vector<at::Tensor>& inputs,
                                     bool learns = false);

}  // namespace kvsmith
