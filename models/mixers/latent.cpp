#include "models/mixers/latent.h"

#include <algorithm>

#include <torch/types.h>

#include "models/modules.h"
#include "ops/latent_attention.h"
#include "ops/layers.h"

namespace kvsmith {
namespace {

enum Stream : size_t { kLatent = 0, kKey = 1 };

class Latent final : public RowMixer {
 public:
  Latent(const ModelConfig& config, const KvGraph& graph, int64_t layer)
      : sizes_(config.latent), spec_(graph[layer]), strict_(graph.reads_ahead(layer)) {
    const int64_t width = config.hidden_size, heads = config.num_attention_heads;
    const int64_t query = heads * (sizes_.qk_nope_head_dim + sizes_.qk_rope_head_dim);
    const int64_t key_and_value = heads * (sizes_.qk_nope_head_dim + sizes_.v_head_dim);
    const int64_t latent_width = sizes_.kv_lora_rank / spec_.kv_heads;
    const auto add = [&](const char* name, int64_t in, int64_t out) {
      return register_module(name, Linear(in, out, /*has_bias=*/false));
    };
    if (sizes_.q_lora_rank > 0) {
      q_a_proj_ = add("q_a_proj", width, sizes_.q_lora_rank);
      q_a_norm_ = register_module("q_a_layernorm", RmsNorm(sizes_.q_lora_rank, kLatentEps));
      q_b_proj_ = add("q_b_proj", sizes_.q_lora_rank, query);
    } else {
      q_proj_ = add("q_proj", width, query);
    }
    if (graph.is_owner(layer)) {
      kv_a_proj_ = add("kv_a_proj_with_mqa", width, sizes_.kv_lora_rank + sizes_.qk_rope_head_dim);
      // one weight serves both heads of a grouped latent: kv_b_proj can scale each on its own
      if (sizes_.latent_norm)
        kv_a_norm_ = register_module("kv_a_layernorm", RmsNorm(latent_width, kLatentEps));
    }
    kv_b_proj_ = add("kv_b_proj", latent_width, key_and_value);
    o_proj_ = add("o_proj", heads * sizes_.v_head_dim, width);
  }

  std::vector<at::Tensor> project(const at::Tensor& x, const Positions& positions) override {
    const auto both = kv_a_proj_(x);
    const auto latent =
        split_heads(both.narrow(-1, 0, sizes_.kv_lora_rank), sizes_.kv_lora_rank / spec_.kv_heads);
    const auto key = both.narrow(-1, sizes_.kv_lora_rank, sizes_.qk_rope_head_dim).unsqueeze(1);
    return {kv_a_norm_ ? kv_a_norm_(latent) : latent, rotate(key, positions, spec_.rope_theta)};
  }

  at::Tensor attend(const at::Tensor& x, const Positions& positions, const Rows& rows) override {
    if (rows.empty()) return torch::zeros_like(x);
    const auto projected = q_proj_ ? q_proj_(x) : q_b_proj_(q_a_norm_(q_a_proj_(x)));
    const auto q = split_heads(projected, sizes_.qk_nope_head_dim + sizes_.qk_rope_head_dim);
    const auto rotary = q.narrow(3, sizes_.qk_nope_head_dim, sizes_.qk_rope_head_dim);
    const Visibility visibility = rows.seen_from(positions, strict_);
    const auto mixed =
        latent_attention({.content = q.narrow(3, 0, sizes_.qk_nope_head_dim),
                          .rotary = rotate(rotary, positions, spec_.rope_theta)},
                         {.state = rows.streams[kLatent], .shared_key = rows.streams[kKey]},
                         kv_b_proj_->effective_weight(), visibility);
    return o_proj_(merge_heads(mixed));
  }

 private:
  LatentConfig sizes_;
  LayerSpec spec_;
  bool strict_;
  Linear q_proj_{nullptr}, q_a_proj_{nullptr}, q_b_proj_{nullptr};
  Linear kv_a_proj_{nullptr}, kv_b_proj_{nullptr}, o_proj_{nullptr};
  RmsNorm q_a_norm_{nullptr}, kv_a_norm_{nullptr};
};

}  // namespace

std::shared_ptr<Mixer> make_latent(const ModelConfig& config, const KvGraph& graph, int64_t layer) {
  return std::make_shared<Latent>(config, graph, layer);
}

int64_t latent_cache_bytes(const ModelConfig& config,
                           const KvGraph& /*graph*/,
                           int64_t /*layer*/,
                           int64_t tokens,
                           int64_t element_bytes) {
  return tokens * (config.latent.kv_lora_rank + config.latent.qk_rope_head_dim) * element_bytes;
}

MixerCost latent_cost(const ModelConfig& config,
                      const KvGraph& graph,
                      int64_t layer,
                      int64_t context) {
  const LatentConfig& sizes = config.latent;
  const LayerSpec& spec = graph[layer];
  const int64_t heads = config.num_attention_heads, width = config.hidden_size;
  const int64_t head_key = sizes.qk_nope_head_dim + sizes.qk_rope_head_dim;
  const int64_t query = heads * head_key, value = heads * sizes.v_head_dim;
  const int64_t key_and_value = heads * (sizes.qk_nope_head_dim + sizes.v_head_dim);
  const int64_t row = sizes.kv_lora_rank + sizes.qk_rope_head_dim;
  const int64_t latent_width = sizes.kv_lora_rank / spec.kv_heads;
  const bool compresses = sizes.q_lora_rank > 0, owns = graph.is_owner(layer);

  MixerCost cost;
  cost.matrices = latent_width * key_and_value + value * width +
                  (compresses ? sizes.q_lora_rank * (width + query) : width * query) +
                  (owns ? width * row : 0);
  cost.vectors = sizes.q_lora_rank + (owns && sizes.latent_norm ? latent_width : 0);
  // The kernel keeps queries, keys, values and its output, padded to one width; o_proj its input,
  // the norms theirs and their results.
  const int64_t padded = heads * std::max(head_key, sizes.v_head_dim);
  const bool makes_padding = head_key > sizes.v_head_dim;
  cost.activations = 3 * padded + (makes_padding ? padded : key_and_value) + value +
                     2 * sizes.q_lora_rank +
                     (owns ? row + (sizes.latent_norm ? sizes.kv_lora_rank : 0) : 0);
  cost.mixing_flops = 2.0 * static_cast<double>(query + value) * mean_tokens_seen(spec, context);
  return cost;
}

}  // namespace kvsmith
