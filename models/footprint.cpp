#include "models/footprint.h"

#include <algorithm>

namespace kvsmith {

ModelFootprint model_footprint(const ModelConfig& c) {
  const int64_t query = c.num_attention_heads * c.head_dim;
  const int64_t kv = c.num_key_value_heads * c.head_dim;
  const int64_t attention = c.hidden_size * (2 * query + 2 * kv);
  const int64_t feed_forward = 3 * c.hidden_size * c.intermediate_size;
  const int64_t biases = c.attention_bias ? query + 2 * kv : 0;
  const int64_t norms = 2 * c.hidden_size + (c.qk_norm ? 2 * c.head_dim : 0);
  const int64_t table = c.vocab_size * c.hidden_size;

  ModelFootprint out;
  out.matmul_parameters = c.num_hidden_layers * (attention + feed_forward) + table;
  out.parameters = out.matmul_parameters + c.num_hidden_layers * (biases + norms) + c.hidden_size +
                   (c.tie_word_embeddings ? 0 : table);
  return out;
}

double forward_flops_per_token(const ModelConfig& c, int64_t context) {
  const double seen = (static_cast<double>(context) + 1) / 2;
  return 2.0 * static_cast<double>(model_footprint(c).matmul_parameters) +
         4.0 * static_cast<double>(c.num_hidden_layers * c.num_attention_heads * c.head_dim) * seen;
}

double training_flops_per_token(const ModelConfig& c, int64_t context) {
  return 3 * forward_flops_per_token(c, context);
}

TrainingFootprint training_footprint(const RunConfig& config) {
  const auto& c = config.model;
  const auto& t = config.train;
  const auto size = model_footprint(c);
  const int64_t element = t.precision == "bf16" ? 2 : 4;
  const int64_t tokens = t.micro_batch() * t.sequence_length;
  const int64_t query = c.num_attention_heads * c.head_dim;
  const int64_t kv = c.num_key_value_heads * c.head_dim;

  // two residual states and their norms; rotated q, k, v and the attention output (twice: heads
  // first for the kernel, heads last for o_proj); gate, up, silu(gate) and their product
  const int64_t per_layer = 4 * c.hidden_size + 3 * query + 2 * kv + 4 * c.intermediate_size;
  const int64_t log_sum_exp = 4 * c.num_attention_heads;
  // the loss keeps both of its gradients and works on a slice of logits (ops/layers.cpp)
  constexpr int64_t kLogitBytes = int64_t{64} << 20;
  const int64_t logits = std::min(tokens * c.vocab_size * 4, kLogitBytes);
  const int64_t loss =
      tokens * c.hidden_size * 2 * element + c.vocab_size * c.hidden_size * 4 + 2 * logits;
  const int64_t casts = element == 2 ? 2 * size.matmul_parameters : 0;

  TrainingFootprint out;
  out.weights = 4 * size.parameters;
  out.gradients = 4 * size.parameters;
  out.optimizer = 8 * size.parameters;
  out.activations =
      c.num_hidden_layers * tokens * (per_layer * element + log_sum_exp) + loss + casts;
  return out;
}

}  // namespace kvsmith
