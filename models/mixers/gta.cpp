#include "models/mixers/gta.h"

#include <torch/types.h>

#include "models/modules.h"
#include "ops/latent_attention.h"
#include "ops/layers.h"

namespace kvsmith {
namespace {

enum Stream : size_t { kState = 0, kKey = 1 };

class GroupedTiedAttention final : public RowMixer {
 public:
  GroupedTiedAttention(const ModelConfig& config, const KvGraph& graph, int64_t layer)
      : head_dim_(config.head_dim),
        rotary_(config.latent.qk_rope_head_dim),
        spec_(graph[layer]),
        strict_(graph.reads_ahead(layer)) {
    const int64_t width = config.hidden_size, query = config.num_attention_heads * head_dim_;
    const auto add = [&](const char* name, int64_t in, int64_t out) {
      return register_module(name, Linear(in, out, /*has_bias=*/false));
    };
    q_proj_ = add("q_proj", width, query);
    if (graph.is_owner(layer)) {
      kv_proj_ = add("kv_proj", width, spec_.kv_heads * head_dim_);
      k_rope_proj_ = add("k_rope_proj", width, rotary_);
    }
    o_proj_ = add("o_proj", query, width);
  }

  std::vector<at::Tensor> project(const at::Tensor& x, const Positions& positions) override {
    return {split_heads(kv_proj_(x), head_dim_),
            rotate(k_rope_proj_(x).unsqueeze(1), positions, spec_.rope_theta)};
  }

  at::Tensor attend(const at::Tensor& x, const Positions& positions, const Rows& rows) override {
    if (rows.empty()) return torch::zeros_like(x);
    const auto q = split_heads(q_proj_(x), head_dim_);
    const int64_t content = head_dim_ - rotary_;
    const Visibility visibility = rows.seen_from(positions, strict_);
    const auto mixed = tied_attention(
        {.content = q.narrow(3, 0, content),
         .rotary = rotate(q.narrow(3, content, rotary_), positions, spec_.rope_theta)},
        {.state = rows.streams[kState], .shared_key = rows.streams[kKey]}, visibility);
    return o_proj_(merge_heads(mixed));
  }

 private:
  int64_t head_dim_, rotary_;
  LayerSpec spec_;
  bool strict_;
  Linear q_proj_{nullptr}, kv_proj_{nullptr}, k_rope_proj_{nullptr}, o_proj_{nullptr};
};

}  // namespace

std::shared_ptr<Mixer> make_gta(const ModelConfig& config, const KvGraph& graph, int64_t layer) {
  return std::make_shared<GroupedTiedAttention>(config, graph, layer);
}

int64_t gta_cache_bytes(const ModelConfig& config,
                        const KvGraph& graph,
                        int64_t layer,
                        int64_t tokens,
                        int64_t element_bytes) {
  return tokens * (graph[layer].kv_heads * config.head_dim + config.latent.qk_rope_head_dim) *
         element_bytes;
}

MixerCost gta_cost(const ModelConfig& config,
                   const KvGraph& graph,
                   int64_t layer,
                   int64_t context) {
  const LayerSpec& spec = graph[layer];
  const int64_t query = config.num_attention_heads * config.head_dim;
  const int64_t state = spec.kv_heads * config.head_dim, rotary = config.latent.qk_rope_head_dim;
  const bool owns = graph.is_owner(layer);

  MixerCost cost;
  cost.matrices = config.hidden_size * (2 * query + (owns ? state + rotary : 0));
  // q, the output twice (see attention_cost), the state and the keys made from it
  cost.activations = 3 * query + state + (owns ? state : 0);
  cost.mixing_flops = 4.0 * static_cast<double>(query) * mean_tokens_seen(spec, context);
  return cost;
}

}  // namespace kvsmith
