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

/// Rows of logits alive at once: large enough for a full-speed matrix product.
int64_t chunk_rows(int64_t vocab_size) {
  constexpr int64_t kElements = int64_t{1} << 24;  // 64 MiB of fp32 logits
  return std::max<int64_t>(64, kElements / vocab_size);
}

struct LinearCrossEntropy : Function<LinearCrossEntropy> {
  static at::Tensor forward(AutogradContext* context,
                            const at::Tensor& hidden,
                            const at::Tensor& weight,
                            const at::Tensor& targets,
                            bool wants_grad_hidden,
                            bool wants_grad_weight) {
    const auto cast = weight.to(hidden.scalar_type());
    auto loss = torch::zeros({}, hidden.options().dtype(torch::kFloat));
    at::Tensor grad_hidden, grad_weight;
    if (wants_grad_hidden) grad_hidden = torch::empty_like(hidden);
    if (wants_grad_weight) grad_weight = torch::zeros_like(weight, torch::kFloat);
    const int64_t step = chunk_rows(weight.size(0));
    for (int64_t first = 0; first < hidden.size(0); first += step) {
      const int64_t rows = std::min(step, hidden.size(0) - first);
      const auto h = hidden.narrow(0, first, rows);
      const auto learnt = targets.narrow(0, first, rows).ge(0);
      const auto target = targets.narrow(0, first, rows).clamp_min(0).unsqueeze(1);
      auto log_p = torch::log_softmax(torch::matmul(h, cast.t()), -1, torch::kFloat);
      loss -= log_p.gather(1, target).squeeze(1).masked_fill(learnt.logical_not(), 0).sum();
      if (!wants_grad_hidden && !wants_grad_weight) continue;
      const auto& grad = log_p.exp_();
      grad.scatter_add_(1, target, torch::full_like(target, -1, torch::kFloat));
      grad.mul_(learnt.unsqueeze(1));
      const auto grad_cast = grad.to(hidden.scalar_type());
      if (wants_grad_hidden) {
        at::Tensor slice = grad_hidden.narrow(0, first, rows);
        torch::matmul_out(slice, grad_cast, cast);
      }
      if (!wants_grad_weight) continue;
      if (hidden.scalar_type() == torch::kFloat) {
        grad_weight.addmm_(grad_cast.t(), h);
      } else {
        grad_weight.add_(torch::matmul(grad_cast.t(), h));
      }
    }
    context->save_for_backward({grad_hidden, grad_weight});
    return loss;
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    at::Tensor grad_hidden, grad_weight;
    if (saved[0].defined())
      grad_hidden = (saved[0].to(torch::kFloat) * grads[0]).to(saved[0].scalar_type());
    if (saved[1].defined()) grad_weight = saved[1] * grads[0];
    return {grad_hidden, grad_weight, {}, {}, {}};
  }
};

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const auto type = x.scalar_type();
  return at::linear(x, weight.to(type), bias.defined() ? bias.to(type) : bias);
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return RmsNorm::apply(x, weight, eps);
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

at::Tensor linear_cross_entropy(const at::Tensor& hidden,
                                const at::Tensor& weight,
                                const at::Tensor& targets) {
  // inside a Function gradients are always off, so it cannot see whether they are wanted
  const bool with_grad = at::GradMode::is_enabled();
  return LinearCrossEntropy::apply(hidden, weight, targets, with_grad && hidden.requires_grad(),
                                   with_grad && weight.requires_grad());
}

at::Tensor token_losses(const at::Tensor& logits, const at::Tensor& targets) {
  auto log_p = torch::log_softmax(logits, -1, torch::kFloat);
  return log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1).neg();
}

}  // namespace kvsmith
