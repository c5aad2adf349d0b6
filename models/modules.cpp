#include "models/modules.h"

#include <utility>

#include <torch/types.h>

#include "ops/layers.h"

namespace kvsmith {

LinearImpl::LinearImpl(int64_t in, int64_t out, bool has_bias) {
  weight = register_parameter("weight", torch::empty({out, in}));
  if (has_bias) bias = register_parameter("bias", torch::empty({out}));
}

at::Tensor LinearImpl::forward(const at::Tensor& x) const {
  auto y = held_ ? held_linear(x, held_) : linear(x, weight, bias);
  if (held_ && bias.defined()) y = y + bias.to(y.scalar_type());
  if (!is_adapted()) return y;
  const auto seen = dropout_ > 0 ? torch::dropout(x, dropout_, is_training()) : x;
  return y + up_->forward(down_->forward(seen)) * scale_;
}

void LinearImpl::adapt(int64_t rank, double scale, double dropout) {
  const auto make = [&](const char* name, int64_t in, int64_t out) {
    auto part = register_module(name, std::make_shared<LinearImpl>(in, out, /*has_bias=*/false));
    part->to(weight.device());
    return part;
  };
  down_ = make("lora_A", weight.size(1), rank);
  up_ = make("lora_B", rank, weight.size(0));
  scale_ = scale;
  dropout_ = dropout;
}

void LinearImpl::hold(std::shared_ptr<const HeldWeight> held) {
  held_ = std::move(held);
  weight.set_data(torch::zeros({}, weight.options()).expand(weight.sizes()));
}

at::Tensor LinearImpl::effective_weight() const {
  auto own = held_ ? held_->dense(weight.scalar_type()) : weight;
  if (!is_adapted()) return own;
  return own + low_rank_product(down_->weight, up_->weight, scale_).to(own.scalar_type());
}

RmsNormImpl::RmsNormImpl(int64_t width, double eps) : eps_(eps) {
  weight = register_parameter("weight", torch::empty({width}));
}
at::Tensor RmsNormImpl::forward(const at::Tensor& x) const { return rms_norm(x, weight, eps_); }

EmbeddingImpl::EmbeddingImpl(int64_t rows, int64_t width) {
  weight = register_parameter("weight", torch::empty({rows, width}));
}
at::Tensor EmbeddingImpl::forward(const at::Tensor& ids) const {
  return torch::embedding(weight, ids);
}

GatedMlpImpl::GatedMlpImpl(int64_t width, int64_t inner, const std::string& act)
    : is_gelu_(act == "gelu_pytorch_tanh") {
  gate_proj_ = register_module("gate_proj", Linear(width, inner, false));
  up_proj_ = register_module("up_proj", Linear(width, inner, false));
  down_proj_ = register_module("down_proj", Linear(inner, width, false));
}
at::Tensor GatedMlpImpl::forward(const at::Tensor& x) {
  const auto gate = gate_proj_(x);
  return down_proj_((is_gelu_ ? at::gelu(gate, "tanh") : torch::silu(gate)) * up_proj_(x));
}

}  // namespace kvsmith
