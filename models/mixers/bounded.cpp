#include "models/mixers/bounded.h"

#include <algorithm>
#include <cmath>

#include <torch/types.h>

#include "models/mixers/projections.h"
#include "models/state_memory.h"
#include "ops/attention.h"
#include "ops/layers.h"
#include "ops/slots.h"

namespace kvsmith {
namespace {

class Bounded final : public Mixer {
 public:
  Bounded(const ModelConfig& config, const KvGraph& graph, int64_t layer)
      : sizes_(config.bounded),
        spec_(graph[layer]),
        slots_(config.linear.num_slots),
        query_scale_(config.attention_scale() * std::sqrt(static_cast<double>(config.head_dim))),
        projections_(*this, config, spec_.kv_heads) {
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
      const double gate = std::exp2(-sizes_.slot_tau / half_life);
      offset.select(1, m).fill_(std::log(gate) - std::log1p(-gate));
    }
  }

  std::unique_ptr<Memory> make_cache(const CacheOptions& options) const override {
    return std::make_unique<WindowAndState>(options, spec_.window, spec_.sinks);
  }
  std::unique_ptr<Memory> make_transient() const override {
    return std::make_unique<TransientState>();
  }

  at::Tensor step(const at::Tensor& x, const Positions& positions, Memory& memory) override {
    const BoundedRows rows = project(x, positions);
    const SlotWrites writes = writes_of(rows);
    auto* bounded = dynamic_cast<WindowAndState*>(&memory);
    at::Tensor mixed;
    if (!bounded || bounded->empty()) {
      mixed = bounded_attention(rows, writes, bias(), positions, shape());
      if (bounded) {
        bounded->ring.write(positions, {rows.k, rows.v});
        const Slots slots = absorbed(rows, writes, positions, shape());
        bounded->state = {slots.key, slots.value, slots.mass};
      }
    } else {
      mixed = continued(rows, positions, *bounded);
    }
    return projections_.output(mixed);
  }

 private:
  struct Gate {
    at::Tensor weight;  ///< [kv_heads * slots, 2 * head_dim]
    at::Tensor offset;  ///< [kv_heads * slots]
  };

  bool counts() const { return sizes_.slot_mass == "count"; }
  BoundedShape shape() const { return {spec_.window, spec_.sinks}; }
  at::Tensor bias() const { return slot_bias_.view({-1, slots_}); }

  BoundedRows project(const at::Tensor& x, const Positions& positions) {
    auto [q, k, v] = projections_.heads(x);
    if (query_scale_ != 1) q = q * query_scale_;
    return {q, k, v, rotate(q, positions, spec_.rope_theta),
            rotate(k, positions, spec_.rope_theta)};
  }

  /// From the key and value that the token has in memory: no gate needs to be remembered.
  SlotWrites writes_of(const BoundedRows& rows) const {
    const auto token = torch::cat({rows.k, rows.v}, 3).to(torch::kFloat);
    const auto apply = [&](const Gate& gate) {
      const auto weight =
          gate.weight.to(torch::kFloat).view({spec_.kv_heads, slots_, -1}).transpose(1, 2);
      return torch::matmul(token, weight) + gate.offset.view({spec_.kv_heads, 1, slots_});
    };
    SlotWrites writes;
    writes.log_keep = (torch::log_sigmoid(apply(keep_)) / sizes_.slot_tau).clamp_min(kLeastLogKeep);
    writes.take = counts() ? torch::softmax(apply(take_), 3) : -torch::expm1(writes.log_keep);
    return writes;
  }

  /// Tokens behind a memory that is not empty, one after the other.
  at::Tensor continued(const BoundedRows& rows,
                       const Positions& positions,
                       WindowAndState& memory) {
    // the same storage, in which absorb() works
    Slots slots{memory.state[0], memory.state[1], memory.state[2]};
    std::vector<at::Tensor> out;
    for (int64_t t = 0; t < positions.seq(); ++t) {
      const auto at = [&](const at::Tensor& x) { return x.narrow(2, t, 1); };
      const Positions place = positions.token(t);
      const RingRows::Displaced gone = memory.ring.displaced(place);
      if (gone.wanted.any().item<bool>()) {
        const BoundedRows leaving{{}, gone.streams[0], gone.streams[1], {}, {}};
        absorb(slots, leaving.k, leaving.v, writes_of(leaving), gone.wanted);
      }
      const Rows seen = memory.ring.write(place, {at(rows.k), at(rows.v)});
      const Visibility visibility{place, seen.positions, spec_.window, spec_.sinks};
      out.push_back(bounded_read(at(rows.q), at(rows.rotated_q),
                                 rotate(seen.streams[0], seen.positions, spec_.rope_theta),
                                 seen.streams[1], visibility.mask(), slots, bias()));
    }
    return torch::cat(out, 2);
  }

  BoundedConfig sizes_;
  LayerSpec spec_;
  int64_t slots_;
  double query_scale_;  ///< scores of exact rows and slots take 1 / sqrt(head_dim) besides
  Projections projections_;
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
  const int64_t rows = spec.rows(tokens);
  return spec.kv_heads * (rows * 2 * config.head_dim * element_bytes +
                          config.linear.num_slots * (2 * config.head_dim + 1) * kStateBytes);
}

MixerCost bounded_cost(const ModelConfig& config,
                       const KvGraph& graph,
                       int64_t layer,
                       int64_t context) {
  const LayerSpec& spec = graph[layer];
  const int64_t heads = config.num_attention_heads, query = heads * config.head_dim;
  const int64_t kv = spec.kv_heads * config.head_dim, slots = config.linear.num_slots;
  const int64_t gates = config.bounded.slot_mass == "count" ? 2 : 1;
  MixerCost cost = projections_cost(config, spec.kv_heads);
  cost.matrices += gates * slots * 2 * kv;
  cost.vectors += gates * spec.kv_heads * slots + heads * slots;
  const int64_t copies = 2 * query + 5 * kv + 2 * kv * (spec.window + kSlotChunk) / kSlotChunk;
  const int64_t weights = heads * (spec.window + 4 * kSlotChunk + spec.sinks + 5 * slots);
  cost.activations = 2 * query + 3 * kv;
  cost.fp32_activations = copies + weights + 10 * spec.kv_heads * slots;
  const double seen = mean_tokens_seen(spec, context) + static_cast<double>(slots + kSlotChunk);
  cost.mixing_flops = 4.0 * static_cast<double>(query) * seen;
  return cost;
}

}  // namespace kvsmith
