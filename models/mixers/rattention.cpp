#include "models/mixers/rattention.h"

#include <algorithm>

#include <torch/types.h>

#include "models/mixers/projections.h"
#include "models/modules.h"
#include "models/state_memory.h"
#include "ops/attention.h"
#include "ops/layers.h"
#include "ops/residual_attention.h"

namespace kvsmith {
namespace {

class RAttention final : public Mixer {
 public:
  RAttention(const ModelConfig& config, const KvGraph& graph, int64_t layer)
      : spec_(graph[layer]),
        scale_(config.attention_scale()),
        projections_(*this, config, spec_.kv_heads) {
    residual_norm_ =
        register_module("residual_norm", RmsNorm(config.head_dim, config.rms_norm_eps));
  }

  void initialize_own() override {
    const torch::NoGradGuard no_grad;
    residual_norm_->weight.fill_(0.1);  // begins close to a window
  }

  std::unique_ptr<Memory> make_cache(const CacheOptions& options) const override {
    return std::make_unique<WindowAndState>(options, spec_.window, spec_.sinks);
  }
  std::unique_ptr<Memory> make_transient() const override {
    return std::make_unique<TransientState>();
  }

  at::Tensor step(const at::Tensor& x, const Positions& positions, Memory& memory) override {
    const auto [q, k, v] = projections_.heads(x);
    auto* kept = dynamic_cast<WindowAndState*>(&memory);
    const Seen seen = remember({k, v}, positions, kept);
    const Visibility visibility{.queries = positions,
                                .rows = seen.exact.positions,
                                .window = spec_.window,
                                .sinks = spec_.sinks};
    const auto exact =
        attention(rotate(q, positions, spec_.rope_theta),
                  rotate(seen.exact.streams[0], seen.exact.positions, spec_.rope_theta),
                  seen.exact.streams[1], visibility, scale_);
    const auto residual = residual_attention(
        q, seen.leaving, positions, kept && !kept->empty() ? kept->state[0] : at::Tensor());
    if (kept && kept->empty()) {
      kept->state = {residual.state.detach()};
    } else if (kept) {
      kept->state[0].copy_(residual.state.detach());
    }
    const auto mixed = exact + residual_norm_(residual.out).to(exact.scalar_type());
    return projections_.output(mixed);
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

  LayerSpec spec_;
  double scale_;  ///< of scores in the window; the linear part has none
  Projections projections_;
  RmsNorm residual_norm_{nullptr};
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
  const int64_t rows = spec.rows(tokens);
  return spec.kv_heads * 2 * config.head_dim *
         (rows * element_bytes + config.head_dim * kStateBytes);
}

MixerCost rattention_cost(const ModelConfig& config,
                          const KvGraph& graph,
                          int64_t layer,
                          int64_t context) {
  const LayerSpec& spec = graph[layer];
  const int64_t query = config.num_attention_heads * config.head_dim;
  const int64_t kv = spec.kv_heads * config.head_dim;
  MixerCost cost = projections_cost(config, spec.kv_heads);
  cost.vectors += config.head_dim;
  cost.activations = 12 * query + 8 * kv;
  const double state = static_cast<double>(config.head_dim * (query + kv));
  const double in_chunk = 1.5 * static_cast<double>(query * kScanChunk);
  cost.mixing_flops = 4.0 * static_cast<double>(query) * mean_tokens_seen(spec, context) +
                      4.0 * state + 2.0 * in_chunk;
  return cost;
}

}  // namespace kvsmith
