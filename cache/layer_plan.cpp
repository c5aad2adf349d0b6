#include "cache/layer_plan.h"

#include <algorithm>

namespace kvsmith {

std::vector<StreamShape> stream_shapes(const ModelConfig& config,
                                       const KvGraph& graph,
                                       int64_t layer) {
  const LayerSpec& spec = graph[layer];
  if (spec.kind == "latent" || spec.kind == "grouped_latent" || spec.kind == "gta") {
    const int64_t heads = spec.kind == "gta" ? spec.kv_heads : spec.kind == "latent" ? 1 : 2;
    const int64_t width =
        spec.kind == "gta" ? config.head_dim : config.latent.kv_lora_rank / heads;
    return {{0, heads, width, false}, {1, 1, config.latent.qk_rope_head_dim, true}};
  }
  const bool is_coded = spec.kind == "autoencoded";
  const int64_t width = is_coded ? config.autoencoder.autoencoder_dim : config.head_dim;
  if (spec.k_eq_v) return {{1, spec.kv_heads, width, false}};
  std::vector<StreamShape> out;
  if (graph.key_heads(layer) > 0) out.push_back({0, graph.key_heads(layer), width, !is_coded});
  if (graph.value_heads(layer) > 0) out.push_back({1, graph.value_heads(layer), width, false});
  return out;
}

int64_t LayerPlan::figure_bytes() const {
  return retention ? 4 * retention->make(config, facts)->figures() : 0;
}

int64_t LayerPlan::row_bytes() const {
  int64_t sum = index_bytes() + figure_bytes();
  for (const auto& [shape, codec] : streams)
    sum += codec->row_bytes(shape.width) * shape.heads / facts.heads;
  return sum;
}

int64_t LayerPlan::codec_metadata_bytes() const {
  int64_t sum = 0;
  for (const auto& [shape, codec] : streams)
    sum += codec->metadata_bytes(shape.width) * shape.heads / facts.heads;
  return sum;
}

int64_t LayerPlan::rows(int64_t tokens, int64_t prompt) const {
  if (!retention) return tokens;
  if (!retention->after_prompt_only) return std::min(tokens, budget);
  return (prompt > 1 ? std::min(prompt, budget) : prompt) + tokens - prompt;
}

int64_t LayerPlan::bytes(int64_t tokens, int64_t prompt) const {
  return rows(tokens, prompt) * facts.heads * row_bytes();
}

}  // namespace kvsmith
