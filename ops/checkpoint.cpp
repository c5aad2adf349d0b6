#include "ops/checkpoint.h"

#include <algorithm>
#include <memory>
#include <optional>

#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

namespace kvsmith {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Which tensors of a list are defined.
class Places {
 public:
  Places() = default;
  explicit Places(const std::vector<at::Tensor>& tensors) : count_(tensors.size()) {
    for (size_t i = 0; i < count_; ++i)
      if (tensors[i].defined()) defined_.push_back(i);
  }

  variable_list gathered(const std::vector<at::Tensor>& all) const {
    variable_list out;
    for (const size_t place : defined_) out.push_back(all[place]);
    return out;
  }
  variable_list spread(const std::vector<at::Tensor>& defined) const {
    variable_list out(count_);
    for (size_t i = 0; i < defined.size(); ++i) out[defined_[i]] = defined[i];
    return out;
  }

 private:
  size_t count_ = 0;
  std::vector<size_t> defined_;
};

struct Recipe : torch::CustomClassHolder {
  explicit Recipe(TensorFunction from) : function(std::move(from)) {}
  TensorFunction function;
};

struct Checkpoint : torch::autograd::Function<Checkpoint> {
  static variable_list forward(AutogradContext* context,
                               const c10::intrusive_ptr<Recipe>& recipe,
                               at::TensorList inputs,
                               const std::optional<at::Tensor>& /*beginning*/) {
    context->saved_data["recipe"] = c10::IValue::make_capsule(recipe);
    context->save_for_backward(inputs.vec());
    context->set_materialize_grads(false);
    return recipe->function(inputs.vec());
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto recipe =
        c10::static_intrusive_pointer_cast<Recipe>(context->saved_data["recipe"].toCapsule());
    variable_list inputs;
    for (const auto& saved : context->get_saved_variables())
      inputs.push_back(saved.detach().requires_grad_(saved.requires_grad()));

    variable_list outputs, into_outputs;
    {
      const torch::AutoGradMode recording(true);
      const variable_list all = recipe->function(inputs);
      for (size_t i = 0; i < all.size(); ++i) {
        if (!all[i].requires_grad() || !gradients[i].defined()) continue;
        outputs.push_back(all[i]);
        into_outputs.push_back(gradients[i]);
      }
    }
    // fills the gradients of parameters, which are inputs that autograd does not know of
    if (!outputs.empty()) torch::autograd::backward(outputs, into_outputs);

    variable_list out(1);  // none for the recipe
    for (const auto& input : inputs) out.push_back(input.grad());
    out.emplace_back();
    return out;
  }
};

}  // namespace

std::vector<at::Tensor> checkpointed(const TensorFunction& function,
                                     const std::vector<at::Tensor>& inputs,
                                     bool learns) {
  const bool needs_gradient = learns || std::ranges::any_of(inputs, [](const at::Tensor& input) {
                                return input.defined() && input.requires_grad();
                              });
  if (!torch::GradMode::is_enabled() || !needs_gradient) return function(inputs);
  // autograd takes and gives defined tensors only
  const auto places = std::make_shared<const Places>(inputs);
  const auto out_places = std::make_shared<Places>();
  auto recipe = c10::make_intrusive<Recipe>([=](const std::vector<at::Tensor>& given) {
    const auto all = function(places->spread(given));
    *out_places = Places(all);
    return out_places->gathered(all);
  });
  // leads autograd here where no input does
  std::optional<at::Tensor> beginning;
  if (learns) beginning = torch::zeros({}).requires_grad_();
  return out_places->spread(
      Checkpoint::apply(recipe, at::TensorList(places->gathered(inputs)), beginning));
}

}  // namespace kvsmith
