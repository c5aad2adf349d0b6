#include "models/mixers/attention.h"

#include <algorithm>

#include <torch/types.h>

#include "models/modules.h"
#include "ops/attention.h"
#include "ops/layers.h"

namespace kvsmith {
namespace {

/// Where attention finds its rows. A fused layer has the keys of its value source and the values of
/// its key source besides.
enum Stream : size_t { kKeys = 0, kValues = 1, kOtherKeys = 2, kOtherValues = 3 };

class Attention final : public RowMixer {
 public:
  Attention(const ModelConfig& config, const KvGraph& graph, int64_t layer)
      : config_(config),
        spec_(graph[layer]),
        strict_(graph.reads_ahead(layer)),
        has_keys_(graph.keeps_keys(layer)),
        has_values_(graph.keeps_values(layer)) {
    const int64_t width = config.hidden_size, query = config.num_attention_heads * config.head_dim;
    const int64_t kv = spec_.kv_heads * config.head_dim;
    const auto add = [&](const char* name, int64_t in, int64_t out, bool bias) {
      return register_module(name, Linear(in, out, bias));
    };
    const auto add_norm = [&](const char* name) {
      return register_module(name, RmsNorm(config.head_dim, config.rms_norm_eps));
    };
    q_proj_ = add("q_proj", width, query, config.attention_bias);
    if (has_keys_ || (spec_.k_eq_v && has_values_))
      k_proj_ = add("k_proj", width, kv, config.attention_bias);
    if (has_values_ && !spec_.k_eq_v) v_proj_ = add("v_proj", width, kv, config.attention_bias);
    o_proj_ = add("o_proj", query, width, false);
    if (config.qk_norm) q_norm_ = add_norm("q_norm");
    if (config.qk_norm && k_proj_) k_norm_ = add_norm("k_norm");
    if (config.attention_sink_logits)
      sinks_ = register_parameter("sinks", torch::empty({config.num_attention_heads}));
    if (spec_.kind == "fused") {
      k_mix_ = register_parameter("k_mix", torch::empty({2, spec_.kv_heads, config.head_dim / 2}));
      v_mix_ = register_parameter("v_mix", torch::empty({2, spec_.kv_heads, config.head_dim}));
    }
  }

  void initialize_own() override {
    const torch::NoGradGuard no_grad;
    if (sinks_.defined()) sinks_.zero_();
    if (!k_mix_.defined()) return;
    for (const auto& mix : {k_mix_, v_mix_}) {  // begins as FusedKV-Lite
      mix[0].fill_(1);
      mix[1].zero_();
    }
  }

  std::unique_ptr<Memory> make_cache(const CacheOptions& options) const override {
    if (spec_.window == 0) return RowMixer::make_cache(options);
    return std::make_unique<RingRows>(options, spec_.window, spec_.sinks);
  }

  std::vector<at::Tensor> project(const at::Tensor& x, const Positions& positions) override {
    if (spec_.k_eq_v) {
      const auto raw = split_heads(k_proj_(x), config_.head_dim);
      const bool is_normed = config_.qk_norm || config_.v_norm;
      return {{}, is_normed ? rms_norm(raw, config_.rms_norm_eps) : raw};
    }
    at::Tensor k, v;
    if (has_keys_) {
      k = split_heads(k_proj_(x), config_.head_dim);
      if (k_norm_) k = k_norm_(k);
      k = rotate(k, positions, spec_.rope_theta);
    }
    if (has_values_) v = split_heads(v_proj_(x), config_.head_dim);
    if (config_.v_norm && has_values_) v = rms_norm(v, config_.rms_norm_eps);
    return {k, v};
  }

  Rows expand(Rows remembered) override {
    if (spec_.k_eq_v && !remembered.empty()) {
      const auto& v = remembered.streams[kValues];
      const auto k = k_norm_ ? v * k_norm_->weight.to(v.scalar_type()) : v;
      remembered.streams[kKeys] = rotate(k, remembered.positions, spec_.rope_theta);
    }
    return remembered;
  }

  at::Tensor attend(const at::Tensor& x, const Positions& positions, const Rows& rows) override {
    if (rows.empty()) return torch::zeros_like(x);
    auto q = split_heads(q_proj_(x), config_.head_dim);
    if (q_norm_) q = q_norm_(q);
    q = rotate(q, positions, spec_.rope_theta);
    auto k = rows.streams[kKeys], v = rows.streams[kValues];
    if (k_mix_.defined()) {
      // one weight for both halves of a rotated pair, or scores would depend on absolute positions
      const auto pairs = torch::cat({k_mix_, k_mix_}, 2).unsqueeze(2).to(k.scalar_type());
      const auto mix = v_mix_.unsqueeze(2).to(v.scalar_type());
      k = k * pairs[0] + rows.streams[kOtherKeys] * pairs[1];
      v = v * mix[0] + rows.streams[kOtherValues] * mix[1];
    }
    Visibility visibility = rows.seen_from(positions, strict_);
    visibility.window = spec_.window;
    visibility.sinks = spec_.sinks;
    const double scale = config_.attention_scale();
    const auto mixed = sinks_.defined()
                           ? attention_with_sink_logits(q, k, v, visibility, sinks_, scale)
                           : attention(q, k, v, visibility, scale);
    return o_proj_(merge_heads(mixed));
  }

 private:
  ModelConfig config_;
  LayerSpec spec_;
  bool strict_, has_keys_, has_values_;
  Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, o_proj_{nullptr};
  RmsNorm q_norm_{nullptr}, k_norm_{nullptr};
  at::Tensor sinks_;          ///< [heads] logits
  at::Tensor k_mix_, v_mix_;  ///< [2, kv_heads, head_dim / 2 or head_dim]
};

}  // namespace

std::shared_ptr<Mixer> make_attention(const ModelConfig& config,
                                      const KvGraph& graph,
                                      int64_t layer) {
  return std::make_shared<Attention>(config, graph, layer);
}

int64_t attention_cache_bytes(const ModelConfig& config,
                              const KvGraph& graph,
                              int64_t layer,
                              int64_t tokens,
                              int64_t element_bytes) {
  const LayerSpec& spec = graph[layer];
  const int64_t streams =
      spec.k_eq_v ? 1 : int64_t{graph.keeps_keys(layer)} + graph.keeps_values(layer);
  const int64_t rows = spec.rows(tokens);
  return streams * spec.kv_heads * config.head_dim * rows * element_bytes;
}

MixerCost attention_cost(const ModelConfig& config,
                         const KvGraph& graph,
                         int64_t layer,
                         int64_t context) {
  const LayerSpec& spec = graph[layer];
  const int64_t query = config.num_attention_heads * config.head_dim;
  const int64_t kv = spec.kv_heads * config.head_dim;
  const bool values = graph.keeps_values(layer);
  const bool projects_keys = graph.keeps_keys(layer) || (spec.k_eq_v && values);
  const int64_t key = projects_keys ? kv : 0;
  const int64_t value = values && !spec.k_eq_v ? kv : 0;

  MixerCost cost;
  cost.matrices = config.hidden_size * (2 * query + key + value);
  if (config.attention_bias) cost.vectors += query + key + value;
  if (config.qk_norm) cost.vectors += config.head_dim * (1 + projects_keys);
  if (config.attention_sink_logits) cost.vectors += config.num_attention_heads;
  if (spec.kind == "fused") cost.vectors += 3 * kv;
  // rotated q, k, v and the output, twice: heads first for the kernel, heads last for o_proj
  cost.activations = 3 * query + key + value + (config.v_norm ? value : 0);
  cost.mixing_flops = 4.0 * static_cast<double>(query) * mean_tokens_seen(spec, context);
  return cost;
}

}  // namespace kvsmith
