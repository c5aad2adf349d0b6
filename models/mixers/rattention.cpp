#include "models/mixers/rattention.h"

#include <algorithm>

#include <torch/types.h>

#include "models/modules.h"
#include "models/state_memory.h"
#include "ops/attention.h"
#include "ops/layers.h"
#include "ops/residual_attention.h"

namespace kvsmith {
namespace {

/// A ring of exact rows, keys unrotated, and the state of what has left it.
class WindowAndState final : public Memory {
 public:
  WindowAndState(const CacheOptions& options, const LayerSpec& spec)
      : ring(options, spec.window, spec.sinks) {}

  bool empty() const { return !state.defined(); }
  int64_t bytes_used() const override { return ring.bytes_used() + state_bytes(); }
  int64_t bytes_reserved() const override { return ring.bytes_reserved() + state_bytes(); }
  void clear() override {
    ring.clear();
    state = at::Tensor();
  }
  std::unique_ptr<Memory> clone() const override {
    auto out = std::make_unique<WindowAndState>(*this);
    out->ring = ring.copy();
    if (!empty()) out->state = state.clone();
    return out;
  }

  RingRows ring;
  at::Tensor state;  ///< [batch, kv_heads, 2 * head_dim, head_dim] fp32

 private:
  int64_t state_bytes() const {
    return empty() ? 0 : static_cast<int64_t>(state.storage().nbytes());
  }
};

class RAttention final : public Mixer {
 public:
  RAttention(const ModelConfig& config, const KvGraph& graph, int64_t layer)
      : config_(config), spec_(graph[layer]) {
    const int64_t width = config.hidden_size, query = config.num_attention_heads * config.head_dim;
    const int64_t kv = spec_.kv_heads * config.head_dim;
    const auto add_norm = [&](const char* name) {
      return register_module(name, RmsNorm(config.head_dim, config.rms_norm_eps));
    };
    q_proj_ = register_module("q_proj", Linear(width, query, config.attention_bias));
    k_proj_ = register_module("k_proj", Linear(width, kv, config.attention_bias));
    v_proj_ = register_module("v_proj", Linear(width, kv, config.attention_bias));
    o_proj_ = register_module("o_proj", Linear(query, width, false));
    if (config.qk_norm) {
      q_norm_ = add_norm("q_norm");
      k_norm_ = add_norm("k_norm");
    }
    residual_norm_ = add_norm("residual_norm");
  }

  void initialize_own() override {
    const torch::NoGradGuard no_grad;
    residual_norm_->weight.fill_(0.1);  // begins close to a window
  }

  std::unique_ptr<Memory> make_cache(const CacheOptions& options) const override {
    return std::make_unique<WindowAndState>(options, spec_);
  }
  std::unique_ptr<Memory> make_transient() const override {
    return std::make_unique<TransientState>();
  }

  at::Tensor step(const at::Tensor& x, const Positions& positions, Memory& memory) override {
    auto q = heads(q_proj_(x)), k = heads(k_proj_(x)), v = heads(v_proj_(x));
    if (q_norm_) q = q_norm_(q);
    if (k_norm_) k = k_norm_(k);

    auto* kept = dynamic_cast<WindowAndState*>(&memory);
    const Seen seen = remember({k, v}, positions, kept);
    const Visibility visibility{.queries = positions,
                                .rows = seen.exact.positions,
                                .window = spec_.window,
                                .sinks = spec_.sinks};
    const auto exact =
        attention(rotated(q, positions), rotated(seen.exact.streams[0], seen.exact.positions),
                  seen.exact.streams[1], visibility);
    const auto residual = residual_attention(q, seen.leaving, positions,
                                             kept && !kept->empty() ? kept->state : at::Tensor());
    if (kept && kept->empty()) {
      kept->state = residual.state.detach();
    } else if (kept) {
      kept->state.copy_(residual.state.detach());
    }
    const auto mixed = exact + residual_norm_(residual.out).to(exact.scalar_type());
    return o_proj_(mixed.transpose(1, 2).flatten(2));
  }

 private:
  /// What new tokens have before them.
  struct Seen {
    Rows exact;
    Leaving leaving;
  };

  /// fresh: keys, unrotated, and values. Writes them to the ring of `kept`, where there is one.
  Seen remember(const std::vector<at::Tensor>& fresh,
                const Positions& positions,
                WindowAndState* kept) const {
    if (!kept || kept->empty()) {
      if (kept) kept->ring.write(positions, fresh);
      return {{fresh, positions},
              leaving_in_order(fresh[0], fresh[1], positions, spec_.window, spec_.sinks)};
    }
    if (positions.seq() == 1) {
      const RingRows::Displaced gone = kept->ring.displaced(positions);
      return {kept->ring.write(positions, fresh),
              {gone.streams[0], gone.streams[1], gone.wanted.unsqueeze(1)}};
    }
    const Rows rows = kept->ring.write(positions, fresh);
    return {rows, leaving_among(rows.streams[0], rows.streams[1], rows.positions, positions,
                                spec_.window, spec_.sinks)};
  }

  /// [batch, seq, heads * head_dim] -> [batch, heads, seq, head_dim].
  at::Tensor heads(const at::Tensor& x) const {
    return x.unflatten(-1, {-1, config_.head_dim}).transpose(1, 2);
  }
  at::Tensor rotated(const at::Tensor& x, const Positions& positions) const {
    return spec_.rope_theta > 0 ? rotate(x, positions, spec_.rope_theta) : x;
  }

  ModelConfig config_;
  LayerSpec spec_;
  Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, o_proj_{nullptr};
  RmsNorm q_norm_{nullptr}, k_norm_{nullptr}, residual_norm_{nullptr};
};

}  // namespace

std::shared_ptr<Mixer> make_rattention(const ModelConfig& config,
                                       const KvGraph& graph,
                                       int64_t layer) {
  return std::make_shared<RAttention>(config, graph, layer);
}

int64_t rattention_cache_bytes(const ModelConfig& config,
                               const KvGraph& graph,
                               int64_t layer,
                               int64_t tokens,
                               int64_t element_bytes) {
  if (tokens == 0) return 0;
  const LayerSpec& spec = graph[layer];
  const int64_t rows = std::min(tokens, spec.window + spec.sinks);
  return spec.kv_heads * 2 * config.head_dim * (rows * element_bytes + config.head_dim * 4);
}

MixerCost rattention_cost(const ModelConfig& config,
                          const KvGraph& graph,
                          int64_t layer,
                          int64_t context) {
  const LayerSpec& spec = graph[layer];
  const int64_t query = config.num_attention_heads * config.head_dim;
  const int64_t kv = spec.kv_heads * config.head_dim;
  MixerCost cost;
  cost.matrices = config.hidden_size * (2 * query + 2 * kv);
  cost.vectors = config.head_dim * (config.qk_norm ? 3 : 1);
  if (config.attention_bias) cost.vectors += query + 2 * kv;
  cost.activations = 12 * query + 8 * kv;
  const double state = static_cast<double>(config.head_dim * (query + kv));
  const double in_chunk = 1.5 * static_cast<double>(query * kScanChunk);
  cost.mixing_flops = 4.0 * static_cast<double>(query) * mean_tokens_seen(spec, context) +
                      4.0 * state + 2.0 * in_chunk;
  return cost;
}

}  // namespace kvsmith
