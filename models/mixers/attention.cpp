#include "models/mixers/attention.h"

#include <torch/types.h>

#include "models/modules.h"
#include "ops/attention.h"
#include "ops/layers.h"

namespace kvsmith {
namespace {

class Attention final : public RowMixer {
 public:
  explicit Attention(const ModelConfig& config) : config_(config) {
    const int64_t width = config.hidden_size, query = config.num_attention_heads * config.head_dim;
    const int64_t kv = config.num_key_value_heads * config.head_dim;
    q_proj_ = register_module("q_proj", Linear(width, query, config.attention_bias));
    k_proj_ = register_module("k_proj", Linear(width, kv, config.attention_bias));
    v_proj_ = register_module("v_proj", Linear(width, kv, config.attention_bias));
    o_proj_ = register_module("o_proj", Linear(query, width, false));
    if (config.qk_norm) {
      q_norm_ = register_module("q_norm", RmsNorm(config.head_dim, config.rms_norm_eps));
      k_norm_ = register_module("k_norm", RmsNorm(config.head_dim, config.rms_norm_eps));
    }
  }

  std::vector<at::Tensor> project(const at::Tensor& x, const Positions& positions) override {
    auto k = heads(k_proj_(x));
    if (config_.qk_norm) k = k_norm_(k);
    return {rotate(k, positions, config_.rope_theta), heads(v_proj_(x))};
  }

  at::Tensor attend(const at::Tensor& x, const Positions& positions, const Rows& rows) override {
    auto q = heads(q_proj_(x));
    if (config_.qk_norm) q = q_norm_(q);
    auto mixed = attention(rotate(q, positions, config_.rope_theta), rows.streams[0],
                           rows.streams[1], {positions, rows.positions});
    return o_proj_(mixed.transpose(1, 2).flatten(2));
  }

 private:
  /// [batch, seq, heads * head_dim] -> [batch, heads, seq, head_dim].
  at::Tensor heads(const at::Tensor& x) const {
    return x.unflatten(-1, {-1, config_.head_dim}).transpose(1, 2);
  }

  ModelConfig config_;
  Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, o_proj_{nullptr};
  RmsNorm q_norm_{nullptr}, k_norm_{nullptr};
};

}  // namespace

std::shared_ptr<Mixer> make_attention(const ModelConfig& config, int64_t /*layer*/) {
  return std::make_shared<Attention>(config);
}

int64_t attention_cache_bytes(const ModelConfig& config,
                              int64_t /*layer*/,
                              int64_t tokens,
                              int64_t element_bytes) {
  return 2 * config.num_key_value_heads * config.head_dim * tokens * element_bytes;
}

}  // namespace kvsmith
