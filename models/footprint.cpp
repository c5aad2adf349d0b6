#include "models/footprint.h"

#include <algorithm>

#include "configs/kv_graph.h"
#include "models/mixer.h"

namespace kvsmith {
namespace {

MixerCost cost_of(const ModelConfig& c, const KvGraph& graph, int64_t layer, int64_t context) {
  return mixer_kind(graph[layer].kind).cost(c, graph, layer, context);
}

int64_t feed_forward(const ModelConfig& c) { return 3 * c.hidden_size * c.intermediate_size; }

/// How often a layer is run in training: with and without gradient. The last layer of a cyclic
/// slice is run once, but for its projections of keys and values, which are not counted here.
struct Runs {
  double with_gradient = 1, without = 0;
};

Runs runs_of(const ModelConfig& c, const KvGraph& graph, int64_t layer) {
  for (const Slice& slice : graph.slices()) {
    if (slice.is_cyclic && slice.first <= layer && layer < slice.last - 1)
      return {static_cast<double>(c.backward_passes), static_cast<double>(c.forward_passes)};
  }
  return {};
}

double forward_flops(const ModelConfig& c, const KvGraph& graph, int64_t layer, int64_t context) {
  const MixerCost cost = cost_of(c, graph, layer, context);
  return 2.0 * static_cast<double>(cost.matrices + feed_forward(c)) + cost.mixing_flops;
}

double head_flops(const ModelConfig& c) {
  return 2.0 * static_cast<double>(c.vocab_size) * static_cast<double>(c.hidden_size);
}

}  // namespace

ModelFootprint model_footprint(const ModelConfig& c) {
  const KvGraph graph(c);
  const int64_t table = c.vocab_size * c.hidden_size;
  ModelFootprint out;
  out.matmul_parameters = table;
  out.parameters = table + c.hidden_size + (c.tie_word_embeddings ? 0 : table);
  for (int64_t layer = 0; layer < graph.size(); ++layer) {
    const MixerCost cost = cost_of(c, graph, layer, 1);
    const int64_t matrices = cost.matrices + feed_forward(c);
    out.matmul_parameters += matrices;
    out.parameters += matrices + cost.vectors + (c.sandwich_norm ? 4 : 2) * c.hidden_size;
  }
  return out;
}

double training_flops_per_token(const ModelConfig& c, int64_t context) {
  const KvGraph graph(c);
  double sum = 3 * head_flops(c);
  for (int64_t layer = 0; layer < graph.size(); ++layer) {
    const Runs runs = runs_of(c, graph, layer);
    sum += (3 * runs.with_gradient + runs.without) * forward_flops(c, graph, layer, context);
  }
  return sum;
}

TrainingFootprint training_footprint(const RunConfig& config) {
  const auto& c = config.model;
  const auto& t = config.train;
  const KvGraph graph(c);
  const auto size = model_footprint(c);
  const int64_t element = t.precision == "bf16" ? 2 : 4;
  const int64_t tokens = t.micro_batch() * t.sequence_length;

  TrainingFootprint out;
  int64_t again = 0;  // of the one layer that is being computed again
  for (int64_t layer = 0; layer < graph.size(); ++layer) {
    const MixerCost cost = cost_of(c, graph, layer, t.sequence_length);
    // two residual states and their norms, branches that are normed; gate, up, act(gate) and their
    // product
    const int64_t width = (c.sandwich_norm ? 6 : 4) * c.hidden_size + 4 * c.intermediate_size;
    const int64_t log_sum_exp = 4 * c.num_attention_heads;
    const auto passes = static_cast<int64_t>(runs_of(c, graph, layer).with_gradient);
    const int64_t whole =
        tokens * ((width + cost.activations) * element + cost.fp32_activations * 4 + log_sum_exp);
    const int64_t row = layer_cache_bytes(c, graph, layer, 2, element) -
                        layer_cache_bytes(c, graph, layer, 1, element);
    const int64_t ends = tokens * (c.hidden_size * element + row);
    out.activations += passes * (t.gradient_checkpointing ? ends : whole);
    if (t.gradient_checkpointing) again = std::max(again, whole);
  }
  out.activations += again;
  // the loss keeps both of its gradients and works on a slice of logits (ops/layers.cpp)
  constexpr int64_t kLogitBytes = int64_t{64} << 20;
  const int64_t logits = std::min(tokens * c.vocab_size * 4, kLogitBytes);
  const int64_t loss =
      tokens * c.hidden_size * 2 * element + c.vocab_size * c.hidden_size * 4 + 2 * logits;
  const int64_t casts = element == 2 ? 2 * size.matmul_parameters : 0;

  out.weights = 4 * size.parameters;
  out.gradients = 4 * size.parameters;
  out.optimizer = 8 * size.parameters;
  out.activations += loss + casts;
  return out;
}

}  // namespace kvsmith
