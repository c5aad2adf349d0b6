#include "models/mixers/gated_delta.h"

#include <cmath>

#include <torch/types.h>

#include "models/mixers/state_mixer.h"
#include "models/modules.h"
#include "models/state_memory.h"
#include "ops/linear_attention.h"
#include "ops/short_conv.h"

namespace kvsmith {
namespace {

/// x / |x| over the last dimension.
at::Tensor unit(const at::Tensor& x) {
  constexpr double kEps = 1e-6;
  return x * torch::rsqrt(x.square().sum(-1, true) + kEps);
}

class GatedDelta final : public StateMixer {
 public:
  explicit GatedDelta(const ModelConfig& config)
      : heads_(config.linear.linear_num_heads), head_dim_(config.linear.linear_head_dim) {
    const int64_t width = config.hidden_size, inner = config.linear.inner_width();
    const auto add = [&](const char* name, int64_t in, int64_t out) {
      return register_module(name, Linear(in, out, false));
    };
    q_proj_ = add("q_proj", width, inner);
    k_proj_ = add("k_proj", width, inner);
    v_proj_ = add("v_proj", width, inner);
    z_proj_ = add("z_proj", width, inner);
    a_proj_ = add("a_proj", width, heads_);
    b_proj_ = add("b_proj", width, heads_);
    o_proj_ = add("o_proj", inner, width);
    norm_ = register_module("norm", RmsNorm(head_dim_, config.rms_norm_eps));
    conv_weight_ = register_parameter(
        "conv_weight", torch::empty({3 * inner, config.linear.linear_conv_kernel_dim}));
    a_log_ = register_parameter("A_log", torch::empty({heads_}));
    dt_bias_ = register_parameter("dt_bias", torch::empty({heads_}));
  }

  void initialize_own() override {
    const torch::NoGradGuard no_grad;
    // begins near the identity: a column of small random weights alone would shrink the values
    conv_weight_.select(1, conv_weight_.size(1) - 1).add_(1);
    // heads forget at rates from a thousandth to 1.6 a token, Mamba-2's range (arXiv:2405.21060)
    const auto options = a_log_.options();
    a_log_.copy_(torch::linspace(1, 16, heads_, options).log());
    const auto dt = torch::logspace(-3, -1, heads_, 10, options);
    dt_bias_.copy_(torch::log(torch::expm1(dt)));  // the inverse of softplus
  }

 protected:
  size_t state_size() const override { return 2; }

  Mixed mix(const at::Tensor& x,
            const Positions& positions,
            const std::vector<at::Tensor>& past) override {
    const auto qkv = torch::cat({q_proj_(x), k_proj_(x), v_proj_(x)}, -1);
    const auto conv = short_conv(qkv, conv_weight_, positions, past[1]);
    const auto parts = torch::silu(conv.out).chunk(3, -1);
    const auto q =
        unit(state_heads(parts[0], head_dim_)) / std::sqrt(static_cast<double>(head_dim_));
    const auto k = unit(state_heads(parts[1], head_dim_)), v = state_heads(parts[2], head_dim_);
    const auto beta = torch::sigmoid(per_head(b_proj_(x)));
    const auto rate = torch::exp(a_log_).unsqueeze(-1);
    const auto log_gate = -rate * torch::softplus(per_head(a_proj_(x)) + dt_bias_.unsqueeze(-1));

    const auto scan = gated_delta_rule(q, k, v, log_gate, beta, Breaks::of(positions), past[0]);
    const auto mixed = norm_(scan.out.transpose(1, 2).to(x.scalar_type())).flatten(2);
    return {o_proj_(mixed * torch::silu(z_proj_(x))), {scan.state, conv.tail}};
  }

 private:
  /// [batch, seq, heads] -> [batch, heads, seq] fp32.
  static at::Tensor per_head(const at::Tensor& x) { return x.transpose(1, 2).to(torch::kFloat); }

  int64_t heads_, head_dim_;
  Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, z_proj_{nullptr}, a_proj_{nullptr},
      b_proj_{nullptr}, o_proj_{nullptr};
  RmsNorm norm_{nullptr};
  at::Tensor conv_weight_;      ///< [3 * heads * head_dim, kernel], the newest column last
  at::Tensor a_log_, dt_bias_;  ///< [heads]
};

}  // namespace

std::shared_ptr<Mixer> make_gated_delta(const ModelConfig& config,
                                        const KvGraph& /*graph*/,
                                        int64_t /*layer*/) {
  return std::make_shared<GatedDelta>(config);
}

int64_t gated_delta_cache_bytes(const ModelConfig& config,
                                const KvGraph& /*graph*/,
                                int64_t /*layer*/,
                                int64_t tokens,
                                int64_t element_bytes) {
  if (tokens == 0) return 0;
  const auto& c = config.linear;
  return c.state_elements() * kStateBytes +
         (c.linear_conv_kernel_dim - 1) * 3 * c.inner_width() * element_bytes;
}

MixerCost gated_delta_cost(const ModelConfig& config,
                           const KvGraph& /*graph*/,
                           int64_t /*layer*/,
                           int64_t /*context*/) {
  const auto& c = config.linear;
  const int64_t inner = c.inner_width();
  MixerCost cost;
  cost.matrices = config.hidden_size * (5 * inner + 2 * c.linear_num_heads) +
                  3 * inner * c.linear_conv_kernel_dim;
  cost.vectors = 2 * c.linear_num_heads + c.linear_head_dim;
  cost.activations = 24 * inner;
  // forget, look at k, write, look at q
  cost.mixing_flops = 7.0 * static_cast<double>(c.state_elements());
  return cost;
}

}  // namespace kvsmith
