#pragma once

#include "models/mixer.h"
#include "models/modules.h"
#include "ops/layers.h"

namespace kvsmith {

/// The projections of a layer that makes its queries, keys and values from its own input: q_proj,
/// k_proj, v_proj, o_proj, and norms of heads where the config says qk_norm or v_norm.
class Projections {
 public:
  /// Registers them in `layer`.
  Projections(torch::nn::Module& layer, const ModelConfig& config, int64_t kv_heads);

  /// Not yet rotated.
  struct Heads {
    at::Tensor q;     ///< [batch, heads, seq, head_dim]
    at::Tensor k, v;  ///< [batch, kv_heads, seq, head_dim]
  };
  /// x: [batch, seq, hidden_size].
  Heads heads(const at::Tensor& x);
  /// mixed: [batch, heads, seq, head_dim] -> [batch, seq, hidden_size].
  at::Tensor output(const at::Tensor& mixed) { return o_proj_(merge_heads(mixed)); }

 private:
  int64_t head_dim_;
  bool v_norm_;
  double eps_;
  Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, o_proj_{nullptr};
  RmsNorm q_norm_{nullptr}, k_norm_{nullptr};
};

/// Their matrices and vectors.
MixerCost projections_cost(const ModelConfig& config, int64_t kv_heads);

}  // namespace kvsmith
