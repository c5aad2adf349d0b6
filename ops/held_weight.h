#pragma once

#include <memory>

#include <ATen/core/Tensor.h>

namespace kvsmith {

/// A frozen weight, [out, in], that is held in fewer bytes than its elements have.
class HeldWeight {
 public:
  virtual ~HeldWeight() = default;
  /// Its elements, made anew.
  virtual at::Tensor dense(at::ScalarType type) const = 0;
};

/// x W^T in the type of x: [..., in] -> [..., out]. The elements are made for the forward pass and
/// again for the backward pass, and not kept between (QLoRA, arXiv:2305.14314).
at::Tensor held_linear(const at::Tensor& x, const std::shared_ptr<const HeldWeight>& weight);

}  // namespace kvsmith
