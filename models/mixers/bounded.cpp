#include "models/mixers/bounded.h"

#include <algorithm>
#include <cmath>

#include <torch/types.h>

#include "models/modules.h"
#include "models/state_memory.h"
#include "ops/attention.h"
#include "ops/layers.h"
#include "ops/slots.h"

namespace kvsmith {
namespace {

/// A ring of exact rows, keys unrotated, and slots of fp32.
class BoundedMemory final : public Memory {
 public:
  BoundedMemory(const CacheOptions& options, const BoundedShape& shape)
      : ring(options, shape.window, shape.sinks) {}

  bool empty() const { return !slots.mass.defined(); }
  int64_t bytes_used() const override { return ring.bytes_used() + slot_bytes(); }
  int64_t bytes_reserved() const override { return ring.bytes_reserved() + slot_bytes(); }
  void clear() override {
    ring.clear();
    slots = {};
  }
  std::unique_ptr<Memory> clone() const override {
    auto out = std::make_unique<BoundedMemory>(*this);
    out->ring = ring.copy();
    if (!empty()) out->slots = {slots.key.clone(), slots.value.clone(), slots.mass.clone()};
    return out;
  }

  RingRows ring;
  Slots slots;

 private:
  int64_t slot_bytes() const {
    if (empty()) return 0;
    int64_t sum = 0;
    for (const auto& tensor : {slots.key, slots.value, slots.mass})
      sum += static_cast<int64_t>(tensor.storage().nbytes());
    return sum;
  }
};

class Bounded final : public Mixer {
 public:
  Bounded(const ModelConfig& config, const KvGraph& graph, int64_t layer)
      : config_(config), spec_(graph[layer]), slots_(config.linear.num_slots) {
    const int64_t width = config.hidden_size, query = config.num_attention_heads * config.head_dim;
    const int64_t kv = spec_.kv_heads * config.head_dim;
    q_proj_ = register_module("q_proj", Linear(width, query, config.attention_bias));
    k_proj_ = register_module("k_proj", Linear(width, kv, config.attention_bias));
    v_proj_ = register_module("v_proj", Linear(width, kv, config.attention_bias));
    o_proj_ = register_module("o_proj", Linear(query, width, false));
    if (config.qk_norm) {
      q_norm_ = register_module("q_norm", RmsNorm(config.head_dim, config.rms_norm_eps));
      k_norm_ = register_module("k_norm", RmsNorm(config.head_dim, config.rms_norm_eps));
    }
    const auto add_gate = [&](const std::string& name) {
      return Gate{register_parameter(name + "_weight",
                                     torch::empty({spec_.kv_heads * slots_, 2 * config.head_dim})),
                  register_parameter(name + "_offset", torch::empty({spec_.kv_heads * slots_}))};
    };
    keep_ = add_gate("slot_keep");
    if (counts()) take_ = add_gate("slot_take");
    slot_bias_ =
        register_parameter("slot_bias", torch::empty({config.num_attention_heads * slots_}));
  }

  void initialize_own() override {
    const torch::NoGradGuard no_grad;
    constexpr double kLeast = -4;  // begins close to a window with sinks
    slot_bias_.fill_(kLeast);
    if (take_.offset.defined()) take_.offset.zero_();
    // Half-lives from one window to 16, evenly in the logarithm: slots that begin alike stay alike.
    auto offset = keep_.offset.view({spec_.kv_heads, slots_});
    for (int64_t m = 0; m < slots_; ++m) {
      const double place =
          slots_ > 1 ? static_cast<double>(m) / static_cast<double>(slots_ - 1) : 0;
      const double half_life = static_cast<double>(spec_.window) * std::pow(16.0, place);
      const double gate = std::exp2(-config_.bounded.slot_tau / half_life);
      offset.select(1, m).fill_(std::log(gate) - std::log1p(-gate));
    }
  }

  std::unique_ptr<Memory> make_cache(const CacheOptions& options) const override {
    return std::make_unique<BoundedMemory>(options, shape());
  }
  std::unique_ptr<Memory> make_transient() const override {
    return std::make_unique<TransientState>();
  }

  at::Tensor step(const at::Tensor& x, const Positions& positions, Memory& memory) override {
    const BoundedRows rows = project(x, positions);
    const SlotWrites writes = writes_of(rows);
    auto* bounded = dynamic_cast<BoundedMemory*>(&memory);
    at::Tensor mixed;
    if (!bounded || bounded->empty()) {
      mixed = bounded_attention(rows, writes, bias(), positions, shape());
      if (bounded) {
        bounded->ring.write(positions, {rows.k, rows.v});
        bounded->slots = absorbed(rows, writes, positions, shape());
      }
    } else {
      mixed = continued(rows, positions, *bounded);
    }
    return o_proj_(mixed.transpose(1, 2).flatten(2));
  }

 private:
  struct Gate {
    at::Tensor weight;  ///< [kv_heads * slots, 2 * head_dim]
    at::Tensor offset;  ///< [kv_heads * slots]
  };

  bool counts() const { return config_.bounded.slot_mass == "count"; }
  BoundedShape shape() const { return {spec_.window, spec_.sinks}; }
  at::Tensor bias() const { return slot_bias_.view({-1, slots_}); }
  at::Tensor heads(const at::Tensor& x) const {
    return x.unflatten(-1, {-1, config_.head_dim}).transpose(1, 2);
  }
  at::Tensor rotated(const at::Tensor& x, const Positions& positions) const {
    return spec_.rope_theta > 0 ? rotate(x, positions, spec_.rope_theta) : x;
  }

  BoundedRows project(const at::Tensor& x, const Positions& positions) {
    BoundedRows rows{heads(q_proj_(x)), heads(k_proj_(x)), heads(v_proj_(x)), {}, {}};
    if (q_norm_) rows.q = q_norm_(rows.q);
    if (k_norm_) rows.k = k_norm_(rows.k);
    rows.rotated_q = rotated(rows.q, positions);
    rows.rotated_k = rotated(rows.k, positions);
    return rows;
  }

  /// From the key and value that the token has in memory: no gate needs to be remembered.
  SlotWrites writes_of(const BoundedRows& rows) const {
    const auto token = torch::cat({rows.k, rows.v}, 3).to(torch::kFloat);
    const auto apply = [&](const Gate& gate) {
      const auto weight = gate.weight.view({spec_.kv_heads, slots_, -1}).transpose(1, 2);
      return torch::matmul(token, weight) + gate.offset.view({spec_.kv_heads, 1, slots_});
    };
    SlotWrites writes;
    writes.log_keep = torch::log_sigmoid(apply(keep_)) / config_.bounded.slot_tau;
    writes.take = counts() ? torch::softmax(apply(take_), 3) : -torch::expm1(writes.log_keep);
    return writes;
  }

  /// Tokens behind a memory that is not empty, one after the other.
  at::Tensor continued(const BoundedRows& rows, const Positions& positions, BoundedMemory& memory) {
    std::vector<at::Tensor> out;
    for (int64_t t = 0; t < positions.seq(); ++t) {
      const auto at = [&](const at::Tensor& x) { return x.narrow(2, t, 1); };
      const Positions place = positions.token(t);
      const RingRows::Displaced gone = memory.ring.displaced(place);
      if (gone.wanted.any().item<bool>()) {
        const BoundedRows leaving{{}, gone.streams[0], gone.streams[1], {}, {}};
        absorb(memory.slots, leaving.k, leaving.v, writes_of(leaving), gone.wanted);
      }
      const Rows seen = memory.ring.write(place, {at(rows.k), at(rows.v)});
      const Visibility visibility{place, seen.positions, spec_.window, spec_.sinks};
      out.push_back(bounded_read(at(rows.q), at(rows.rotated_q),
                                 rotated(seen.streams[0], seen.positions), seen.streams[1],
                                 visibility.mask(), memory.slots, bias()));
    }
    return torch::cat(out, 2);
  }

  ModelConfig config_;
  LayerSpec spec_;
  int64_t slots_;
  Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, o_proj_{nullptr};
  RmsNorm q_norm_{nullptr}, k_norm_{nullptr};
  Gate keep_, take_;
  at::Tensor slot_bias_;  ///< [heads * slots]
};

}  // namespace

std::shared_ptr<Mixer> make_bounded(const ModelConfig& config,
                                    const KvGraph& graph,
                                    int64_t layer) {
  return std::make_shared<Bounded>(config, graph, layer);
}

int64_t bounded_cache_bytes(const ModelConfig& config,
                            const KvGraph& graph,
                            int64_t layer,
                            int64_t tokens,
                            int64_t element_bytes) {
  if (tokens == 0) return 0;
  const LayerSpec& spec = graph[layer];
  const int64_t rows = std::min(tokens, spec.window + spec.sinks);
  return spec.kv_heads * (rows * 2 * config.head_dim * element_bytes +
                          config.linear.num_slots * (2 * config.head_dim + 1) * 4);
}

MixerCost bounded_cost(const ModelConfig& config,
                       const KvGraph& graph,
                       int64_t layer,
                       int64_t context) {
  const LayerSpec& spec = graph[layer];
  const int64_t query = config.num_attention_heads * config.head_dim;
  const int64_t kv = spec.kv_heads * config.head_dim, slots = config.linear.num_slots;
  const int64_t gates = config.bounded.slot_mass == "count" ? 2 : 1;
  constexpr int64_t kChunk = 64;
  MixerCost cost;
  cost.matrices = config.hidden_size * (2 * query + 2 * kv) + gates * slots * 2 * kv;
  cost.vectors = gates * spec.kv_heads * slots + config.num_attention_heads * slots;
  if (config.attention_bias) cost.vectors += query + 2 * kv;
  if (config.qk_norm) cost.vectors += 2 * config.head_dim;
  // projections, fp32 copies of them, weights over rows and slots, shares of leaving tokens
  cost.activations = 6 * query + 8 * kv +
                     config.num_attention_heads * 4 * (spec.window + kChunk + slots) +
                     spec.kv_heads * slots * 3 * kChunk;
  const double seen = mean_tokens_seen(spec, context) + static_cast<double>(slots + kChunk);
  cost.mixing_flops = 4.0 * static_cast<double>(query) * seen;
  return cost;
}

}  // namespace kvsmith
