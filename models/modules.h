#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include "ops/held_weight.h"

namespace kvsmith {

/// Modules hold parameters and nothing else: storage is left uninitialised until `initialize` or a
/// checkpoint fills it, and all arithmetic is in ops/layers.h.

/// x W^T (+ b), computed in the type of x.
class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(int64_t in, int64_t out, bool has_bias);
  at::Tensor forward(const at::Tensor& x) const;

  /// Adds scale * up(down(x)) (LoRA, arXiv:2106.09685) in parameters lora_A.weight, [rank, in], and
  /// lora_B.weight, [out, rank], which are left uninitialised. In training mode `down` sees x with
  /// a share `dropout` of its elements missing.
  void adapt(int64_t rank, double scale, double dropout);
  bool is_adapted() const { return static_cast<bool>(down_); }
  /// Holds the weight, which does not learn, otherwise than in `weight`, which keeps its shape and
  /// one element.
  void hold(std::shared_ptr<const HeldWeight> held);
  /// The weight and what the adapter adds to it: for those who multiply by it themselves.
  at::Tensor effective_weight() const;

  at::Tensor weight;  ///< [out, in]
  at::Tensor bias;    ///< [out], or undefined

 private:
  std::shared_ptr<LinearImpl> down_, up_;
  std::shared_ptr<const HeldWeight> held_;
  double scale_ = 0, dropout_ = 0;
};
TORCH_MODULE(Linear);

/// Root-mean-square normalisation of the last dimension.
class RmsNormImpl : public torch::nn::Module {
 public:
  RmsNormImpl(int64_t width, double eps);
  at::Tensor forward(const at::Tensor& x) const;

  at::Tensor weight;  ///< [width]

 private:
  double eps_;
};
TORCH_MODULE(RmsNorm);

/// One row per token id.
class EmbeddingImpl : public torch::nn::Module {
 public:
  EmbeddingImpl(int64_t rows, int64_t width);
  at::Tensor forward(const at::Tensor& ids) const;

  at::Tensor weight;  ///< [rows, width]
};
TORCH_MODULE(Embedding);

/// down(act(gate(x)) * up(x)) (arXiv:2002.05202): SwiGLU, or GEGLU with `gelu_pytorch_tanh`.
class GatedMlpImpl : public torch::nn::Module {
 public:
  GatedMlpImpl(int64_t width, int64_t inner, const std::string& act);
  at::Tensor forward(const at::Tensor& x);

 private:
  bool is_gelu_;
  Linear gate_proj_{nullptr}, up_proj_{nullptr}, down_proj_{nullptr};
};
TORCH_MODULE(GatedMlp);

}  // namespace kvsmith
