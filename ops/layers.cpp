#include "ops/layers.h"

#include <algorithm>

#include <torch/csrc/autograd/custom_function.h>
#include <torch/types.h>

namespace kvsmith {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

at::Tensor turn(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const int64_t half = x.size(-1) / 2;
  auto a = x.narrow(-1, 0, half), b = x.narrow(-1, half, half);
  auto out = torch::empty(x.sizes(), x.options());
  out.narrow(-1, 0, half).copy_(a * cos - b * sin);
  out.narrow(-1, half, half).copy_(b * cos + a * sin);
  return out;
}

/// The gradient of a rotation is the rotation back, so nothing of size x is kept for it.
struct Rotation : Function<Rotation> {
  static at::Tensor forward(AutogradContext* context,
                            const at::Tensor& x,
                            const at::Tensor& cos,
                            const at::Tensor& sin) {
    context->save_for_backward({cos, sin});
    return turn(x, cos, sin);
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    return {turn(grads[0], saved[0], saved[1].neg()), {}, {}};
  }
};

/// Keeps x and one number a row for the backward pass, where composed operations would keep three
/// tensors of the size of x, in fp32.
struct RmsNorm : Function<RmsNorm> {
  static at::Tensor forward(AutogradContext* context,
                            const at::Tensor& x,
                            const at::Tensor& weight,
                            double eps) {
    const auto wide = x.to(torch::kFloat);
    const auto scale = wide.pow(2).mean(-1, true).add_(eps).rsqrt_();
    context->save_for_backward({x, weight, scale});
    return (wide * scale).mul_(weight).to(x.scalar_type());
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const auto normed = saved[0].to(torch::kFloat) * saved[2];
    const auto grad = grads[0].to(torch::kFloat);
    at::Tensor grad_weight;
    if (context->needs_input_grad(1))
      grad_weight = (grad * normed).flatten(0, -2).sum(0).to(saved[1].scalar_type());
    auto grad_normed = grad * saved[1];
    const auto along = (grad_normed * normed).mean(-1, true);
    auto grad_x = grad_normed.sub_(normed * along).mul_(saved[2]);
    return {grad_x.to(saved[0].scalar_type()), grad_weight, {}};
  }
};

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const auto type = x.scalar_type();
  return at::linear(x, weight.to(type), bias.defined() ? bias.to(type) : bias);
}

at::Tensor low_rank_product(const at::Tensor& down, const at::Tensor& up, double scale) {
  return torch::matmul(up.to(torch::kFloat), down.to(torch::kFloat)) * scale;
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return RmsNorm::apply(x, weight, eps);
}

at::Tensor rms_norm(const at::Tensor& x, double eps) {
  return rms_norm(x, torch::ones({x.size(-1)}, x.device()), eps);
}

at::Tensor split_heads(const at::Tensor& x, int64_t head_dim) {
  return x.unflatten(-1, {-1, head_dim}).transpose(1, 2);
}

at::Tensor merge_heads(const at::Tensor& x) { return x.transpose(1, 2).flatten(2); }

at::Tensor rotate(const at::Tensor& x, const Positions& positions, double theta) {
  if (theta == 0) return x;
  const auto [cos, sin] = positions.rotary(theta, x.size(-1));
  return Rotation::apply(x, cos, sin);
}

void accumulate(at::Tensor& sum, const at::Tensor& term) {
  sum = sum.defined() ? sum + term : term;
}

}  // namespace kvsmith
