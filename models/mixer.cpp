#include "models/mixer.h"

#include <algorithm>

#include <torch/types.h>

#include "core/error.h"
#include "models/mixers/attention.h"
#include "models/mixers/autoencoded.h"
#include "models/mixers/bounded.h"
#include "models/mixers/gated_delta.h"
#include "models/mixers/gla.h"
#include "models/mixers/gta.h"
#include "models/mixers/latent.h"
#include "models/mixers/rattention.h"
#include "models/mixers/slot_attention.h"

namespace kvsmith {

bool Mixer::leaves_auxiliary_loss() const {
  return keeps_auxiliary_loss_ && is_training() && at::GradMode::is_enabled();
}

at::Tensor RowMixer::step(const at::Tensor& x, const Positions& positions, Memory& memory) {
  auto& rows = dynamic_cast<RowMemory&>(memory);
  return attend(x, positions, expand(rows.write(positions, project(x, positions))));
}

std::unique_ptr<Memory> RowMixer::make_cache(const CacheOptions& options) const {
  return std::make_unique<CachedRows>(options);
}

std::unique_ptr<Memory> RowMixer::make_transient() const {
  return std::make_unique<TransientRows>();
}

const std::vector<MixerKind>& mixer_kinds() {
  static const std::vector<MixerKind> kinds = {
      {"full", make_attention, attention_cache_bytes, attention_cost},
      {"sliding", make_attention, attention_cache_bytes, attention_cost},
      {"fused", make_attention, attention_cache_bytes, attention_cost},
      {"latent", make_latent, latent_cache_bytes, latent_cost},
      {"grouped_latent", make_latent, latent_cache_bytes, latent_cost},
      {"gta", make_gta, gta_cache_bytes, gta_cost},
      {"autoencoded", make_autoencoded, autoencoded_cache_bytes, autoencoded_cost},
      {"bounded", make_bounded, bounded_cache_bytes, bounded_cost},
      {"rattention", make_rattention, rattention_cache_bytes, rattention_cost},
      {"gated_delta", make_gated_delta, gated_delta_cache_bytes, gated_delta_cost},
      {"gla", make_gla, gla_cache_bytes, gla_cost},
      {"gsa", make_slot_attention, slot_attention_cache_bytes, slot_attention_cost},
      {"abc", make_slot_attention, slot_attention_cache_bytes, slot_attention_cost},
  };
  return kinds;
}

const MixerKind& mixer_kind(const std::string& name) {
  const auto found = std::ranges::find(mixer_kinds(), name, &MixerKind::name);
  if (found != mixer_kinds().end()) return *found;
  throw Error(ExitCode::kInternal, {"no mixer for \"" + name + "\"", "model.layer_types", ""});
}

double mean_tokens_seen(const LayerSpec& spec, int64_t context) {
  const auto tokens = static_cast<double>(context);
  const auto most = static_cast<double>(spec.window + spec.sinks);
  if (spec.window == 0 || most >= tokens) return (tokens + 1) / 2;
  // the first `most` queries see (most + 1) / 2 on average, the rest all of `most`
  return most - most * (most - 1) / 2 / tokens;
}

int64_t layer_cache_bytes(const ModelConfig& config,
                          const KvGraph& graph,
                          int64_t layer,
                          int64_t tokens,
                          int64_t element_bytes) {
  if (!graph.is_owner(layer)) return 0;
  return mixer_kind(graph[layer].kind).cache_bytes(config, graph, layer, tokens, element_bytes);
}

int64_t kv_cache_bytes(const ModelConfig& config, int64_t tokens, int64_t element_bytes) {
  const KvGraph graph(config);
  int64_t sum = 0;
  for (int64_t layer = 0; layer < graph.size(); ++layer)
    sum += layer_cache_bytes(config, graph, layer, tokens, element_bytes);
  return sum;
}

}  // namespace kvsmith
