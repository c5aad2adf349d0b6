#include "ops/held_weight.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

namespace kvsmith {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Handle : torch::CustomClassHolder {
  explicit Handle(std::shared_ptr<const HeldWeight> from) : weight(std::move(from)) {}
  std::shared_ptr<const HeldWeight> weight;
};

struct HeldLinear : torch::autograd::Function<HeldLinear> {
  static at::Tensor forward(AutogradContext* context,
                            const at::Tensor& x,
                            const c10::intrusive_ptr<Handle>& handle) {
    context->saved_data["weight"] = c10::IValue::make_capsule(handle);
    return torch::matmul(x, handle->weight->dense(x.scalar_type()).t());
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto handle =
        c10::static_intrusive_pointer_cast<Handle>(context->saved_data["weight"].toCapsule());
    const auto& gradient = gradients[0];
    return {torch::matmul(gradient, handle->weight->dense(gradient.scalar_type())), {}};
  }
};

}  // namespace

at::Tensor held_linear(const at::Tensor& x, const std::shared_ptr<const HeldWeight>& weight) {
  return HeldLinear::apply(x, c10::make_intrusive<Handle>(weight));
}

}  // namespace kvsmith
