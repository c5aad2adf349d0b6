#include "cache/layer_plan.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

constexpr const char* kAsComputed = "model";
constexpr const char* kLean = "leankv";
constexpr int64_t kLeanRecent = 64;  // tokens that stay fine, as published

bool is_kivi(const std::string& codec) { return codec == "kivi2" || codec == "kivi4"; }

/// A float of at least 16 bits, whose rows may be turned and turned back.
bool is_exact(const std::string& codec) {
  return codec == kAsComputed || codec == "fp32" || codec == "bf16" || codec == "fp16";
}

RowPositions row_positions(const std::string& name) {
  if (name == "in_cache") return RowPositions::kInCache;
  return name == "in_cache_raw" ? RowPositions::kInCacheRaw : RowPositions::kOriginal;
}

void check_positions(const CacheConfig& config, const LayerPlan& plan) {
  if (plan.positions == RowPositions::kOriginal) return;
  const bool is_turned = std::ranges::any_of(
      plan.streams, [](const StoredStream& stream) { return stream.shape.is_turned; });
  if (!is_turned) {
    refuse_cache(cat("positions = \"", config.positions, "\" with layer ", plan.facts.layer,
                     ", whose keys are remembered before their rotation"),
                 "positions", "use positions = \"original\"");
  }
  if (plan.positions == RowPositions::kInCache && !is_exact(config.codec_k)) {
    refuse_cache(cat("positions = \"in_cache\" with codec_k = \"", config.codec_k,
                     "\": keys would be quantised in one rotation and read in another"),
                 "positions", "use positions = \"in_cache_raw\", or codec_k = \"model\"");
  }
}

std::shared_ptr<const RowCodec> codec_for(const std::string& name,
                                          const std::string& key,
                                          const StreamShape& shape) {
  const RowCodecKind& kind = row_codec(name);
  if (const auto needed = kind.needs(shape.width); !needed.empty()) {
    refuse_cache(cat("codec ", name, " needs rows of ", needed, ", and they are ", shape.width,
                     " elements wide"),
                 key, key.starts_with("coarse") ? "use int8 or bf16" : "use int8, bf16 or model");
  }
  return kind.make();
}

/// KIVI groups keys over tokens, so that single tokens cannot go, and knows keys and values only.
KiviOptions kivi_options(const CacheConfig& config, const LayerPlan& plan) {
  const std::string both =
      cat("codec_k = \"", config.codec_k, "\" and codec_v = \"", config.codec_v, "\"");
  if (!is_kivi(config.codec_k) || !is_kivi(config.codec_v)) {
    refuse_cache(both + ": KIVI stores keys and values together", "codec_k",
                 "use kivi2 or kivi4 for both, or int4 and int8");
  }
  if (config.retention != "full") {
    refuse_cache(cat("retention = \"", config.retention, "\" with ", both,
                     ": KIVI encodes keys of q_group_size tokens together, and none of them can be "
                     "dropped alone"),
                 "retention", "use retention = \"full\", or a codec of single rows such as int4");
  }
  for (const auto& [shape, codec] : plan.streams) {
    if (shape.heads == plan.facts.heads && (shape.index == 0) == shape.is_turned) continue;
    refuse_cache(
        cat(both, " with layer ", plan.facts.layer, ", which has no keys and values by head"),
        "codec_k", "use codecs of single rows such as int8");
  }
  const KiviOptions options{.bits_k = config.codec_k == "kivi2" ? 2 : 4,
                            .bits_v = config.codec_v == "kivi2" ? 2 : 4,
                            .group = config.q_group_size,
                            .residual = config.residual_length,
                            .quantise_before_attend = config.quantise_before_attend};
  const auto needed = kivi_needs(options, plan.streams.back().shape.width);
  if (!needed.empty())
    refuse_cache(both + " need " + needed, "q_group_size",
                 "change q_group_size or residual_length");
  return options;
}

/// LeanKV judges rows by the attention of the tokens that follow, and stores them at once.
void check_tiers(const CacheConfig& config, LayerPlan& plan, const KvGraph& graph) {
  const std::string lean = "retention = \"leankv\"";
  if (graph.is_cyclic()) {
    refuse_cache(lean + " with layers that read ahead (LCKV)", "retention",
                 "use retention = \"h2o\" with a codec such as int4");
  }
  if (is_kivi(config.codec_k) || is_kivi(config.codec_v)) {
    refuse_cache(cat(lean, " with codec_k = \"", config.codec_k, "\" and codec_v = \"",
                     config.codec_v, "\", which encode several tokens together"),
                 "codec_k", "use codecs of single rows such as int8 and int4");
  }
  if (!config.quantise_before_attend) {
    refuse_cache(lean + " with quantise_before_attend = false", "quantise_before_attend",
                 "leave it true: rows are stored as they come");
  }
  if (config.alpha_low > config.alpha_high) {
    refuse_cache(cat("alpha_low = ", config.alpha_low, " above alpha_high = ", config.alpha_high),
                 "alpha_low", cat("give at most ", config.alpha_high));
  }
  plan.sinks = config.protect_sinks;
  plan.recent = config.protect_recent >= 0 ? config.protect_recent : kLeanRecent;
}

/// Room can be made before attention where every step evicts, and rows are written before they are
/// read.
void check_eviction(const CacheConfig& config, const LayerPlan& plan, const KvGraph& graph) {
  if (config.evict == "after") return;
  const std::string before = "evict = \"before\"";
  if (plan.retention->after_prompt_only) {
    refuse_cache(cat(before, " with retention = \"", config.retention,
                     "\", which drops rows once, by what the prompt attended to"),
                 "evict", "use evict = \"after\"");
  }
  if (graph.is_cyclic())
    refuse_cache(before + " with layers that read ahead (LCKV)", "evict", "use evict = \"after\"");
}

/// The stream is keys by head, turned.
bool is_key_by_head(const StreamShape& shape, int64_t heads) {
  return shape.index == 0 && shape.is_turned && shape.heads == heads;
}

/// Nobody reads its rows beside those of another layer, which are in another order.
bool is_read_alone(const KvGraph& graph, int64_t owner) {
  for (int64_t reader = 0; reader < graph.size(); ++reader) {
    const auto& sources = graph.sources(reader);
    if (std::ranges::count(sources, owner) > 0 && sources.size() > 1) return false;
  }
  return true;
}

}  // namespace

bool has_own_count(const std::string& retention) {
  return retention == "full" || retention == kLean;
}

const RetentionKind* policy_of(const std::string& retention) {
  return has_own_count(retention) ? nullptr : &retention_kind(retention);
}

void refuse_cache(const std::string& what, const std::string& key, const std::string& remedy) {
  throw Error(ExitCode::kConfig, {what, "cache." + key, remedy});
}

bool has_rows(const LayerSpec& spec) {
  const auto kinds = {"full", "sliding", "fused", "latent", "grouped_latent", "gta", "autoencoded"};
  return std::ranges::find(kinds, spec.kind) != kinds.end();
}

void check_sources(const CacheConfig& config, const KvGraph& graph, int64_t layer) {
  const LayerSpec& spec = graph[layer];
  const std::string policy = cat("retention = \"", config.retention, "\" with layer ", layer);
  if (spec.k_source != spec.v_source) {
    refuse_cache(cat(policy, ", which reads keys of layer ", spec.k_source, " and values of layer ",
                     spec.v_source),
                 "retention", "the two would keep different tokens: use retention = \"full\"");
  }
  if (spec.reuses_heads()) {
    refuse_cache(policy + ", which reuses heads of the layer below", "retention",
                 "the two would keep different tokens: use retention = \"full\"");
  }
}

void pair_layers(const CacheConfig& config,
                 const KvGraph& graph,
                 std::vector<std::shared_ptr<LayerPlan>>& layers) {
  const std::string merges = "depth_merge = \"minicache\"";
  if (config.retention != "full") {
    refuse_cache(cat(merges, " with retention = \"", config.retention,
                     "\", which keeps other tokens in each layer"),
                 "depth_merge", "use retention = \"full\"");
  }
  if (is_kivi(config.codec_k) || is_kivi(config.codec_v)) {
    refuse_cache(cat(merges, " with codec_k = \"", config.codec_k,
                     "\", which encodes several tokens together"),
                 "depth_merge", "use codecs of single rows such as int4");
  }
  if (graph.is_cyclic())
    refuse_cache(merges + " with layers that read ahead (LCKV)", "depth_merge",
                 "use a codec such as int8");
  const auto count = static_cast<int64_t>(layers.size());
  const int64_t from = config.merge_from < 0 ? count / 2 : config.merge_from;
  LayerPlan* lower = nullptr;
  int64_t pairs = 0;
  for (int64_t layer = from; layer < count; ++layer) {
    if (!graph.is_owner(layer)) continue;
    LayerPlan* plan = layers[static_cast<size_t>(layer)].get();
    const bool fits = plan && graph[layer].kind == "full" && graph[layer].window == 0 &&
                      !graph[layer].reuses_heads() && is_read_alone(graph, layer) &&
                      std::ranges::count(config.full_precision_layers, layer) == 0;
    if (lower && fits && lower->streams.size() == plan->streams.size() &&
        lower->facts.heads == plan->facts.heads) {
      lower->merged_with = layer;
      plan->merged_with = lower->facts.layer;
      lower = nullptr;
      ++pairs;
    } else {
      lower = fits ? plan : nullptr;
    }
  }
  if (pairs == 0) {
    refuse_cache(cat(merges, " where no two neighbouring layers from ", from,
                     " on keep keys and values of their own"),
                 "merge_from", "lower merge_from, or use a codec such as int8");
  }
  if (config.codec_k != kAsComputed || config.codec_v != kAsComputed) return;
  for (auto& plan : layers)
    if (plan && plan->merged_with < 0) plan.reset();
}

std::optional<LayerPlan> plan_layer(const CacheConfig& config,
                                    const ModelConfig& model,
                                    const KvGraph& graph,
                                    int64_t layer,
                                    at::ScalarType type) {
  const LayerSpec& spec = graph[layer];
  const bool encodes = config.codec_k != kAsComputed || config.codec_v != kAsComputed;
  const bool is_window = spec.window > 0, has_tiers = config.retention == kLean && !is_window;
  const bool evicts = !has_own_count(config.retention) && !is_window;
  const bool merges = config.depth_merge != "none", pages = config.store == "paged";
  if (!graph.is_owner(layer) || !has_rows(spec)) return {};
  if (!evicts && !encodes && !has_tiers && !pages && (!merges || is_window)) return {};

  LayerPlan plan;
  plan.config = config;
  plan.rope_theta = spec.rope_theta;
  plan.element_bytes = static_cast<int64_t>(c10::elementSize(type));
  const auto shapes = stream_shapes(model, graph, layer);
  const bool is_alike = std::ranges::all_of(
      shapes, [&](const StreamShape& shape) { return shape.heads == shapes[0].heads; });
  const int64_t heads = is_alike ? shapes[0].heads : 1;
  int64_t readers = 0;
  for (int64_t reader = 0; reader < graph.size(); ++reader)
    readers += std::ranges::count(graph.sources(reader), layer);
  plan.facts = {layer, heads, model.num_attention_heads / heads, std::max<int64_t>(1, readers),
                spec.rope_theta};
  const bool stays_exact = std::ranges::count(config.full_precision_layers, layer) > 0;
  const bool wants_kivi = is_kivi(config.codec_k) || is_kivi(config.codec_v);
  for (const auto& shape : shapes) {
    const bool is_value = shape.index == 1 && !shape.is_turned;
    const auto& wanted = is_value ? config.codec_v : config.codec_k;
    const bool as_computed = stays_exact || wanted == kAsComputed || wants_kivi;
    const std::string name = as_computed ? (type == at::kBFloat16 ? "bf16" : "fp32") : wanted;
    plan.streams.push_back({shape, codec_for(name, is_value ? "codec_v" : "codec_k", shape)});
    if (!has_tiers) continue;
    const std::string key = is_value ? "coarse_v" : "coarse_k";
    plan.coarse.push_back(codec_for(stays_exact ? name
                                    : is_value  ? config.coarse_v
                                                : config.coarse_k,
                                    key, shape));
  }
  if (has_tiers) check_tiers(config, plan, graph);
  plan.is_paged = pages;
  if (is_window) {  // what its ring would keep
    if (wants_kivi) return {};
    plan.retention = &retention_kind("window");
    plan.budget = spec.window + spec.sinks;
    plan.sinks = spec.sinks;
    plan.config.evict = "after";  // queries of a step still see the whole window
  } else if (evicts) {
    plan.retention = &retention_kind(config.retention);
    plan.positions = row_positions(config.positions);
    check_positions(config, plan);
    check_eviction(config, plan, graph);
    plan.shares_heads = config.allocator == "ada" && heads > 1;
    if (config.store == "auto") plan.is_paged = plan.shares_heads || plan.retention->by_gates;
    const bool needs_keys = plan.retention->reads_queries || plan.retention->merges_values;
    if (needs_keys && (plan.streams.size() != 2 || !is_key_by_head(shapes[0], heads))) {
      refuse_cache(cat("retention = \"", config.retention, "\" with layer ", layer,
                       ", whose rows are not turned keys, and values beside them"),
                   "retention", "use another policy, such as \"h2o\"");
    }
  }
  if (wants_kivi && !stays_exact) plan.kivi = kivi_options(config, plan);
  return plan;
}

std::vector<StreamShape> stream_shapes(const ModelConfig& config,
                                       const KvGraph& graph,
                                       int64_t layer) {
  const LayerSpec& spec = graph[layer];
  if (spec.kind == "latent" || spec.kind == "grouped_latent" || spec.kind == "gta") {
    const bool is_tied = spec.kind == "gta";
    const int64_t width = is_tied ? config.head_dim : config.latent.kv_lora_rank / spec.kv_heads;
    return {{0, spec.kv_heads, width, false}, {1, 1, config.latent.qk_rope_head_dim, true}};
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
  if (is_tiered()) return 4;
  return retention ? 4 * retention->make(config, facts)->figures() : 0;
}

int64_t LayerPlan::row_bytes(bool is_fine) const {
  int64_t sum = index_bytes() + figure_bytes();
  for (size_t i = 0; i < streams.size(); ++i) {
    const auto& [shape, codec] = streams[i];
    sum += (is_fine ? codec : coarse[i])->row_bytes(shape.width) * shape.heads / facts.heads;
  }
  return sum;
}

int64_t LayerPlan::codec_metadata_bytes(bool is_fine) const {
  int64_t sum = 0;
  for (size_t i = 0; i < streams.size(); ++i) {
    const auto& [shape, codec] = streams[i];
    sum += (is_fine ? codec : coarse[i])->metadata_bytes(shape.width) * shape.heads / facts.heads;
  }
  return sum;
}

int64_t LayerPlan::rows(int64_t tokens, int64_t prompt) const {
  int64_t sum = 0;
  for (int64_t head = 0; head < facts.heads; ++head) {
    if (!retention) {
      sum += tokens;
    } else if (retention->after_prompt_only) {
      sum += (prompt > 1 ? std::min(prompt, budget_of(head)) : prompt) + tokens - prompt;
    } else {
      sum += std::min(tokens, budget_of(head));
    }
  }
  return sum;
}

int64_t LayerPlan::bytes(int64_t tokens, int64_t prompt) const {
  if (kivi) {
    int64_t key = 0, value = 0;
    for (const auto& [shape, codec] : streams) (shape.index == 0 ? key : value) = shape.width;
    return kivi_bytes(*kivi, facts.heads, key, value, tokens, element_bytes);
  }
  const int64_t row = is_tiered() ? std::max(row_bytes(true), row_bytes(false)) : row_bytes();
  return rows(tokens, prompt) * row;
}

}  // namespace kvsmith
