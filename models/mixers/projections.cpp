#include "models/mixers/projections.h"

namespace kvsmith {

Projections::Projections(torch::nn::Module& layer, const ModelConfig& config, int64_t kv_heads)
    : head_dim_(config.head_dim), v_norm_(config.v_norm), eps_(config.rms_norm_eps) {
  const int64_t width = config.hidden_size, query = config.num_attention_heads * head_dim_;
  const int64_t kv = kv_heads * head_dim_;
  q_proj_ = layer.register_module("q_proj", Linear(width, query, config.attention_bias));
  k_proj_ = layer.register_module("k_proj", Linear(width, kv, config.attention_bias));
  v_proj_ = layer.register_module("v_proj", Linear(width, kv, config.attention_bias));
  o_proj_ = layer.register_module("o_proj", Linear(query, width, /*has_bias=*/false));
  if (!config.qk_norm) return;
  q_norm_ = layer.register_module("q_norm", RmsNorm(head_dim_, config.rms_norm_eps));
  k_norm_ = layer.register_module("k_norm", RmsNorm(head_dim_, config.rms_norm_eps));
}

Projections::Heads Projections::heads(const at::Tensor& x) {
  Heads out{split_heads(q_proj_(x), head_dim_), split_heads(k_proj_(x), head_dim_),
            split_heads(v_proj_(x), head_dim_)};
  if (q_norm_) out.q = q_norm_(out.q);
  if (k_norm_) out.k = k_norm_(out.k);
  if (v_norm_) out.v = rms_norm(out.v, eps_);
  return out;
}

MixerCost projections_cost(const ModelConfig& config, int64_t kv_heads) {
  const int64_t query = config.num_attention_heads * config.head_dim;
  const int64_t kv = kv_heads * config.head_dim;
  MixerCost cost;
  cost.matrices = config.hidden_size * (2 * query + 2 * kv);
  if (config.attention_bias) cost.vectors += query + 2 * kv;
  if (config.qk_norm) cost.vectors += 2 * config.head_dim;
  return cost;
}

}  // namespace kvsmith
