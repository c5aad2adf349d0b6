#include "cache/cache_plan.h"

#include <algorithm>
#include <cmath>

#include "cache/managed_rows.h"
#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

[[noreturn]] void refuse(const std::string& what, const std::string& key, const std::string& remedy) {
  throw Error(ExitCode::kConfig, {what, "cache." + key, remedy});
}

std::string name_of(at::ScalarType type) { return type == at::kBFloat16 ? "bf16" : "fp32"; }

bool has_row_memory(const LayerSpec& spec) {
  const auto kinds = {"full", "sliding", "fused", "latent", "grouped_latent", "gta", "autoencoded"};
  return std::ranges::find(kinds, spec.kind) != kinds.end();
}

RowPositions row_positions(const std::string& name) {
  if (name == "in_cache") return RowPositions::kInCache;
  return name == "in_cache_raw" ? RowPositions::kInCacheRaw : RowPositions::kOriginal;
}

/// What cannot be done to the rows of a layer that a policy is to drop.
void check_retention(const CacheConfig& config, const KvGraph& graph, int64_t layer) {
  const LayerSpec& spec = graph[layer];
  const std::string where = cat("retention = \"", config.retention, "\"");
  if (spec.k_source != spec.v_source) {
    refuse(cat(where, " with layer ", layer, ", which reads keys of layer ", spec.k_source,
               " and values of layer ", spec.v_source),
           "retention", "the two would keep different tokens: use retention = \"full\"");
  }
  if (spec.reuses_heads()) {
    refuse(cat(where, " with layer ", layer, ", which reuses heads of the layer below"),
           "retention", "the two would keep different tokens: use retention = \"full\"");
  }
}

void check_positions(const CacheConfig& config, const LayerPlan& plan, int64_t layer) {
  if (config.positions == "original") return;
  const bool is_turned = std::ranges::any_of(
      plan.streams, [](const StoredStream& stream) { return stream.shape.is_turned; });
  if (!is_turned) {
    refuse(cat("positions = \"", config.positions, "\" with layer ", layer,
               ", whose keys are remembered before their rotation"),
           "positions", "use positions = \"original\"");
  }
  const auto& codec = config.codec_k;
  const bool is_exact = codec == "model" || codec == "fp32" || codec == "bf16" || codec == "fp16";
  if (config.positions == "in_cache" && !is_exact) {
    refuse(cat("positions = \"in_cache\" with codec_k = \"", codec,
               "\": keys would be quantised in one rotation and read in another"),
           "positions", "use positions = \"in_cache_raw\", or codec_k = \"model\"");
  }
}

std::shared_ptr<const RowCodec> codec_for(const std::string& name,
                                          const std::string& key,
                                          const StreamShape& shape) {
  const RowCodecKind& kind = row_codec(name);
  if (const auto needed = kind.needs(shape.width); !needed.empty()) {
    refuse(cat("codec ", name, " needs rows of ", needed, ", and they are ", shape.width,
               " elements wide"),
           key, "use int8, bf16 or model");
  }
  return kind.make();
}

/// Budgets of layers, `mean` on average, from the lowest to the highest.
std::vector<int64_t> spread(const CacheConfig& config, int64_t mean, int64_t least, int64_t layers) {
  std::vector<int64_t> out(static_cast<size_t>(layers), mean);
  if (config.allocator != "pyramid" || layers < 2) return out;
  // a line from 2 m - m / beta down to m / beta above what is protected (arXiv:2406.02069), rounded
  // so that the sum is exact
  const auto spare = static_cast<double>(mean - least);
  const double low = spare / config.pyramid_beta, high = 2 * spare - low;
  double due = 0;
  int64_t given = 0;
  for (int64_t i = 0; i < layers; ++i) {
    due += high - (high - low) * static_cast<double>(i) / static_cast<double>(layers - 1);
    const int64_t share = std::llround(due) - given;
    given += share;
    out[static_cast<size_t>(i)] = least + share;
  }
  return out;
}

}  // namespace

CachePlan::CachePlan(const CacheConfig& config,
                     const ModelConfig& model,
                     at::ScalarType type,
                     int64_t context)
    : config_(config),
      model_(model),
      graph_(model),
      element_bytes_(static_cast<int64_t>(c10::elementSize(type))),
      layers_(static_cast<size_t>(graph_.size())) {
  const RetentionKind* kind =
      config.retention == "full" ? nullptr : &retention_kind(config.retention);
  const bool encodes = config.codec_k != "model" || config.codec_v != "model";
  if (config.pooling_kernel % 2 == 0)
    refuse(cat("pooling_kernel = ", config.pooling_kernel), "pooling_kernel", "give an odd number");
  std::vector<LayerPlan*> evicting;
  for (int64_t layer = 0; layer < graph_.size(); ++layer) {
    const LayerSpec& spec = graph_[layer];
    if (kind && has_row_memory(spec) && spec.window == 0) check_retention(config, graph_, layer);
    if (!graph_.is_owner(layer) || !has_row_memory(spec)) continue;
    const bool evicts = kind && spec.window == 0;
    if (!evicts && !encodes) continue;
    LayerPlan plan;
    plan.config = config;
    plan.positions = evicts ? row_positions(config.positions) : RowPositions::kOriginal;
    plan.rope_theta = spec.rope_theta;
    const auto shapes = stream_shapes(model, graph_, layer);
    const bool is_alike = std::ranges::all_of(
        shapes, [&](const StreamShape& shape) { return shape.heads == shapes[0].heads; });
    const int64_t heads = is_alike ? shapes[0].heads : 1;
    plan.facts = {layer, heads, model.num_attention_heads / heads};
    const bool is_exact = std::ranges::find(config.full_precision_layers, layer) !=
                          config.full_precision_layers.end();
    for (const auto& shape : shapes) {
      const bool is_value = shape.index == 1 && !shape.is_turned;
      const auto& wanted = is_value ? config.codec_v : config.codec_k;
      const auto name = is_exact || wanted == "model" ? name_of(type) : wanted;
      plan.streams.push_back({shape, codec_for(name, is_value ? "codec_v" : "codec_k", shape)});
    }
    if (spec.window > 0) {  // what its ring would keep
      plan.retention = &retention_kind("window");
      plan.budget = spec.window + spec.sinks;
      plan.sinks = spec.sinks;
    } else if (kind) {
      plan.retention = kind;
      check_positions(config, plan, layer);
    }
    layers_[static_cast<size_t>(layer)] = std::make_shared<LayerPlan>(plan);
    if (evicts) evicting.push_back(layers_[static_cast<size_t>(layer)].get());
  }
  if (!kind) return;
  if (evicting.empty()) {
    refuse(cat("retention = \"", config.retention, "\" where no layer has a cache that grows"),
           "retention", "the memory is bounded already: use retention = \"full\"");
  }

  const int given = (config.budget_tokens > 0) + (config.budget_fraction > 0) + (config.budget_bytes > 0);
  if (given != 1) {
    refuse(cat(given, " of budget_tokens, budget_fraction and budget_bytes are given"),
           "budget_tokens", "give one of them");
  }
  budget_ = config.budget_tokens;
  if (config.budget_fraction > 0)
    budget_ = std::llround(config.budget_fraction * static_cast<double>(context));
  if (config.budget_bytes > 0) {
    // with no rows in the layers that evict, what is left is what is always held
    int64_t row = 0;
    for (const auto* plan : evicting) row += plan->facts.heads * plan->row_bytes();
    for (auto* plan : evicting) plan->budget = 0;
    budget_ = (config.budget_bytes - bytes(context)) / row;
  }
  const int64_t recent = config.protect_recent >= 0
                             ? config.protect_recent
                             : std::llround(kind->recent_share * static_cast<double>(budget_));
  const int64_t least = config.protect_sinks + recent + 1;
  if (budget_ < least) {
    refuse(cat("a budget of ", budget_, " tokens is below the ", config.protect_sinks,
               " sinks and ", recent, " recent tokens that are protected, and one more"),
           "budget_tokens",
           cat("give at least ", least, ", or lower protect_sinks and protect_recent"));
  }
  const auto budgets = spread(config, budget_, least, static_cast<int64_t>(evicting.size()));
  for (size_t i = 0; i < evicting.size(); ++i) {
    evicting[i]->budget = budgets[i];
    evicting[i]->sinks = config.protect_sinks;
    evicting[i]->recent = recent;
  }
}

KvCache CachePlan::make(const DecoderImpl& model,
                        const CacheOptions& options,
                        std::vector<std::shared_ptr<ReplayLog>>* logs) const {
  auto cache = model.make_cache(options);
  if (logs) logs->assign(layers_.size(), nullptr);
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    if (!layers_[layer]) continue;
    std::shared_ptr<ReplayLog> log;
    if (logs && layers_[layer]->retention) log = (*logs)[layer] = std::make_shared<ReplayLog>();
    cache.replace(static_cast<int64_t>(layer),
                  std::make_unique<ManagedRows>(layers_[layer], options, log));
  }
  return cache;
}

int64_t CachePlan::bytes(int64_t tokens, int64_t prompt) const {
  int64_t sum = 0;
  for (int64_t layer = 0; layer < graph_.size(); ++layer) {
    const LayerPlan* plan = of(layer);
    sum += plan ? plan->bytes(tokens, prompt)
                : layer_cache_bytes(model_, graph_, layer, tokens, element_bytes_);
  }
  return sum;
}

std::string method_name(const CachePlan& plan) {
  const CacheConfig& config = plan.config();
  std::string out = config.retention;
  if (plan.budget() > 0) out += cat(" ", plan.budget());
  if (config.allocator != "uniform") out += ", " + config.allocator;
  if (config.positions != "original") out += ", " + config.positions;
  if (config.codec_k != "model" || config.codec_v != "model")
    out += cat(", ", config.codec_k, "/", config.codec_v);
  return out;
}

}  // namespace kvsmith
