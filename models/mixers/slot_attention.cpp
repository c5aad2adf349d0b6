#include "models/mixers/slot_attention.h"

#include <torch/types.h>

#include "models/mixers/state_mixer.h"
#include "models/modules.h"
#include "models/state_memory.h"
#include "ops/layers.h"
#include "ops/linear_attention.h"

namespace kvsmith {
namespace {

constexpr double kGateExponent = 8;  ///< tau of the paper

bool forgets(const LayerSpec& spec) { return spec.kind == "gsa"; }

class SlotAttention final : public StateMixer {
 public:
  SlotAttention(const ModelConfig& config, const LayerSpec& spec)
      : head_dim_(config.head_dim), slots_(config.linear.num_slots), forgets_(forgets(spec)) {
    const int64_t width = config.hidden_size, query = config.num_attention_heads * head_dim_;
    const auto add = [&](const char* name, int64_t in, int64_t out) {
      return register_module(name, Linear(in, out, false));
    };
    q_proj_ = add("q_proj", width, query);
    k_proj_ = add("k_proj", width, spec.kv_heads * head_dim_);
    v_proj_ = add("v_proj", width, spec.kv_heads * head_dim_);
    f_proj_ = add("f_proj", width, spec.kv_heads * slots_);
    o_proj_ = add("o_proj", query, width);
    g_norm_ = register_module("g_norm", RmsNorm(query, config.rms_norm_eps));
  }

 protected:
  size_t state_size() const override { return forgets_ ? 2 : 3; }

  Mixed mix(const at::Tensor& x,
            const Positions& positions,
            const std::vector<at::Tensor>& past) override {
    const auto active = [&](Linear& projection) {
      return torch::silu(state_heads(projection(x), head_dim_));
    };
    const auto q = active(q_proj_), k = active(k_proj_), v = active(v_proj_);
    const auto logit = state_heads(f_proj_(x), slots_);
    const Breaks breaks = Breaks::of(positions);
    RunningWeights weights;
    if (forgets_) {
      weights.log_gate = torch::log_sigmoid(logit) / kGateExponent;
      weights.write = -torch::expm1(weights.log_gate);
    } else {
      weights = running_weights(logit, breaks, past[2]);
    }
    const auto scan =
        slot_attention(q, k, v, weights.log_gate, weights.write, breaks, past[0], past[1]);
    const auto mixed = merge_heads(torch::silu(scan.out)).to(x.scalar_type());
    std::vector<at::Tensor> state = {scan.keys, scan.values};
    if (!forgets_) state.push_back(weights.log_sum);
    return {o_proj_(g_norm_(mixed)), std::move(state)};
  }

 private:
  int64_t head_dim_, slots_;
  bool forgets_;
  Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, f_proj_{nullptr}, o_proj_{nullptr};
  RmsNorm g_norm_{nullptr};
};

}  // namespace

std::shared_ptr<Mixer> make_slot_attention(const ModelConfig& config,
                                           const KvGraph& graph,
                                           int64_t layer) {
  return std::make_shared<SlotAttention>(config, graph[layer]);
}

int64_t slot_attention_cache_bytes(const ModelConfig& config,
                                   const KvGraph& graph,
                                   int64_t layer,
                                   int64_t tokens,
                                   int64_t /*element_bytes*/) {
  const LayerSpec& spec = graph[layer];
  const int64_t of_slot = 2 * config.head_dim + (forgets(spec) ? 0 : 1);
  return tokens == 0 ? 0 : spec.kv_heads * config.linear.num_slots * of_slot * kStateBytes;
}

MixerCost slot_attention_cost(const ModelConfig& config,
                              const KvGraph& graph,
                              int64_t layer,
                              int64_t /*context*/) {
  const int64_t query = config.num_attention_heads * config.head_dim;
  const int64_t kv = graph[layer].kv_heads * config.head_dim, slots = config.linear.num_slots;
  const int64_t logits = graph[layer].kv_heads * slots;
  MixerCost cost;
  cost.matrices = config.hidden_size * (2 * query + 2 * kv + logits);
  cost.vectors = query;
  cost.activations = 7 * query + 4 * kv + 5 * logits;
  // a head looks at keys and values of its slots; a key/value head forgets and writes both
  cost.mixing_flops = static_cast<double>(slots) *
                      (4.0 * static_cast<double>(query) + 6.0 * static_cast<double>(kv));
  return cost;
}

}  // namespace kvsmith
