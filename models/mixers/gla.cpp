#include "models/mixers/gla.h"

#include <cmath>

#include <torch/types.h>

#include "models/mixers/state_mixer.h"
#include "models/modules.h"
#include "models/state_memory.h"
#include "ops/linear_attention.h"

namespace kvsmith {
namespace {

constexpr int64_t kGateRank = 16;     ///< width between W1 and W2
constexpr double kGateExponent = 16;  ///< gates begin near 1: 0.5^(1/16) = 0.96

class GatedLinear final : public StateMixer {
 public:
  explicit GatedLinear(const ModelConfig& config) : head_dim_(config.linear.linear_head_dim) {
    const int64_t width = config.hidden_size, inner = config.linear.inner_width();
    const auto add = [&](const char* name, int64_t in, int64_t out, bool bias = false) {
      return register_module(name, Linear(in, out, bias));
    };
    q_proj_ = add("q_proj", width, inner);
    k_proj_ = add("k_proj", width, inner);
    v_proj_ = add("v_proj", width, inner);
    g_proj_ = add("g_proj", width, inner);
    gate_in_proj_ = add("gate_in_proj", width, kGateRank);
    gate_out_proj_ = add("gate_out_proj", kGateRank, inner, true);
    o_proj_ = add("o_proj", inner, width);
    g_norm_ = register_module("g_norm", RmsNorm(head_dim_, config.rms_norm_eps));
  }

 protected:
  size_t state_size() const override { return 1; }

  Mixed mix(const at::Tensor& x,
            const Positions& positions,
            const std::vector<at::Tensor>& past) override {
    const auto q = state_heads(q_proj_(x), head_dim_) / std::sqrt(static_cast<double>(head_dim_));
    const auto k = state_heads(k_proj_(x), head_dim_), v = state_heads(v_proj_(x), head_dim_);
    const auto gate_logit = state_heads(gate_out_proj_(gate_in_proj_(x)), head_dim_);
    const LogGates gates{.keys = torch::log_sigmoid(gate_logit) / kGateExponent, .values = {}};

    const auto scan = gated_linear_attention(q, k, v, gates, Breaks::of(positions), past[0]);
    const auto mixed = g_norm_(scan.out.transpose(1, 2).to(x.scalar_type())).flatten(2);
    return {o_proj_(mixed * torch::silu(g_proj_(x))), {scan.state}};
  }

 private:
  int64_t head_dim_;
  Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, g_proj_{nullptr},
      gate_in_proj_{nullptr}, gate_out_proj_{nullptr}, o_proj_{nullptr};
  RmsNorm g_norm_{nullptr};
};

}  // namespace

std::shared_ptr<Mixer> make_gla(const ModelConfig& config,
                                const KvGraph& /*graph*/,
                                int64_t /*layer*/) {
  return std::make_shared<GatedLinear>(config);
}

int64_t gla_cache_bytes(const ModelConfig& config,
                        const KvGraph& /*graph*/,
                        int64_t /*layer*/,
                        int64_t tokens,
                        int64_t /*element_bytes*/) {
  return tokens == 0 ? 0 : config.linear.state_elements() * kStateBytes;
}

MixerCost gla_cost(const ModelConfig& config,
                   const KvGraph& /*graph*/,
                   int64_t /*layer*/,
                   int64_t /*context*/) {
  const auto& c = config.linear;
  const int64_t inner = c.inner_width();
  MixerCost cost;
  cost.matrices = config.hidden_size * (5 * inner + kGateRank) + kGateRank * inner;
  cost.vectors = inner + c.linear_head_dim;
  cost.activations = 12 * inner;
  // forget, write, look
  cost.mixing_flops = 5.0 * static_cast<double>(c.state_elements());
  return cost;
}

}  // namespace kvsmith
