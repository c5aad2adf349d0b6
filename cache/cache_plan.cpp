#include "cache/cache_plan.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "cache/allocators.h"
#include "cache/managed_rows.h"
#include "cache/merged_layers.h"
#include "cache/tiered_rows.h"
#include "core/error.h"
#include "core/text.h"
#include "models/weights_hash.h"

namespace kvsmith {
namespace {

/// Whether rows that `layer` reads may be dropped by a policy.
bool reads_growing_rows(const KvGraph& graph, int64_t layer) {
  return std::ranges::any_of(graph.sources(layer), [&](int64_t source) {
    return graph[source].window == 0 && has_rows(graph[source]);
  });
}

/// Refuses settings that would do nothing.
void check_effects(const CacheConfig& config, int64_t layers) {
  if (config.pooling_kernel % 2 == 0)
    refuse_cache(cat("pooling_kernel = ", config.pooling_kernel), "pooling_kernel",
                 "give an odd number");
  for (const int64_t layer : config.full_precision_layers) {
    if (layer < layers) continue;
    refuse_cache(cat("full_precision_layers has ", layer, ", and the model ", layers, " layers"),
                 "full_precision_layers", cat("give layers from 0 to ", layers - 1));
  }
  if (!has_own_count(config.retention)) return;
  const auto expect = [&](bool good, const std::string& key, const std::string& what) {
    if (!good)
      refuse_cache(cat(what, " with retention = \"", config.retention,
                       "\", which has no budget and leaves rows where they stand"),
                   key, "leave it out, or name a policy such as retention = \"h2o\"");
  };
  expect(config.positions == "original", "positions",
         cat("positions = \"", config.positions, "\""));
  expect(config.allocator == "uniform", "allocator", cat("allocator = \"", config.allocator, "\""));
  expect(config.evict == "after", "evict", cat("evict = \"", config.evict, "\""));
  expect(config.budget_tokens == 0, "budget_tokens", cat("budget_tokens = ", config.budget_tokens));
  expect(config.budget_bytes == 0, "budget_bytes", cat("budget_bytes = ", config.budget_bytes));
  expect(config.budget_fraction == 0, "budget_fraction",
         cat("budget_fraction = ", config.budget_fraction));
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
  check_effects(config, graph_.size());
  const RetentionKind* kind = policy_of(config.retention);
  std::vector<LayerPlan*> evicting;
  for (int64_t layer = 0; layer < graph_.size(); ++layer) {
    const bool grows = graph_[layer].window == 0 && has_rows(graph_[layer]);
    if (config.retention != "full" && reads_growing_rows(graph_, layer))
      check_sources(config, graph_, layer);
    auto plan = plan_layer(config, model, graph_, layer, type);
    if (!plan) continue;
    layers_[static_cast<size_t>(layer)] = std::make_shared<LayerPlan>(std::move(*plan));
    if (kind && grows) evicting.push_back(layers_[static_cast<size_t>(layer)].get());
  }
  const auto some_layer = [&](const auto& is_so) {
    return std::ranges::any_of(layers_, [&](const auto& plan) { return plan && is_so(*plan); });
  };
  if (config.retention == "leankv" && !some_layer(std::mem_fn(&LayerPlan::is_tiered))) {
    refuse_cache("retention = \"leankv\" where no layer has a cache that grows", "retention",
                 "the memory is bounded already: use retention = \"full\"");
  }
  const bool wants_kivi = config.codec_k.starts_with("kivi") || config.codec_v.starts_with("kivi");
  if (config.depth_merge != "none") pair_layers(config, graph_, layers_);
  if (config.allocator == "ada" &&
      !some_layer([](const auto& plan) { return plan.shares_heads; })) {
    refuse_cache("allocator = \"ada\" where no layer that grows has rows by several heads",
                 "allocator", "use allocator = \"uniform\" or \"pyramid\"");
  }
  const bool is_special =
      config.retention == "leankv" || config.depth_merge != "none" || wants_kivi;
  if (config.store != "auto" && is_special) {
    refuse_cache(cat("store = \"", config.store,
                     "\" with leankv, minicache or a kivi codec, which "
                     "have stores of their own"),
                 "store", "leave it out");
  }
  if (kind) allocate(*kind, evicting, context);
  if (wants_kivi && !some_layer([](const LayerPlan& plan) { return plan.kivi.has_value(); })) {
    refuse_cache(cat("codec_k = \"", config.codec_k,
                     "\" where no layer has a cache of keys and values that grows"),
                 "codec_k", "windows take codecs of single rows such as int4");
  }
}

void CachePlan::allocate(const RetentionKind& kind,
                         const std::vector<LayerPlan*>& evicting,
                         int64_t context) {
  if (evicting.empty()) {
    refuse_cache(cat("retention = \"", kind.name, "\" where no layer has a cache that grows"),
                 "retention", "the memory is bounded already: use retention = \"full\"");
  }
  const int given =
      (config_.budget_tokens > 0) + (config_.budget_fraction > 0) + (config_.budget_bytes > 0);
  if (given != 1) {
    refuse_cache(cat(given, " of budget_tokens, budget_fraction and budget_bytes are given"),
                 "budget_tokens", "give one of them");
  }
  budget_ = config_.budget_tokens;
  if (config_.budget_fraction > 0)
    budget_ = std::llround(config_.budget_fraction * static_cast<double>(context));
  if (config_.budget_bytes > 0) {
    // budgets are 0 so far: bytes() is what is held in any case
    int64_t row = 0;
    for (const auto* plan : evicting) row += plan->facts.heads * plan->row_bytes();
    budget_ = std::max<int64_t>(0, config_.budget_bytes - bytes(context, context)) / row;
  }
  if (kind.by_gates) read_gates(evicting);
  const int64_t sinks = std::max(config_.protect_sinks, gates_ ? gates_->sinks : 0);
  int64_t recent = config_.protect_recent;
  if (recent < 0) {  // a policy that looks from a window keeps the window
    recent = gates_ ? gates_->window
             : kind.after_prompt_only
                 ? config_.observation_window
                 : std::llround(kind.recent_share * static_cast<double>(budget_));
  }
  const int64_t least = sinks + recent + 1;
  if (budget_ < least) {
    refuse_cache(cat("a budget of ", budget_, " tokens is below the ", sinks, " sinks and ", recent,
                     " recent tokens that are protected, and one more"),
                 "budget_tokens",
                 cat("give at least ", least, ", or lower protect_sinks and protect_recent"));
  }
  for (auto* plan : evicting) {
    plan->sinks = sinks;
    plan->recent = recent;
  }
  const auto give = [&] {
    if (gates_) return spread_by_gates(*gates_, budget_, context, evicting);
    spread_over_layers(config_, budget_, least, context, evicting);
  };
  give();
  // layers whose rows are large may have got more of them than the mean
  while (config_.budget_bytes > 0 && budget_ > least &&
         bytes(context, context) > config_.budget_bytes) {
    --budget_;
    give();
  }
}

void CachePlan::read_gates(const std::vector<LayerPlan*>& evicting) {
  const std::string duo = cat("retention = \"", config_.retention, "\"");
  if (config_.duo_gates.empty()) {
    refuse_cache(duo + " without gates", "duo_gates",
                 "make them with `kvsmith calibrate --method duo` and give the file");
  }
  if (config_.allocator != "uniform") {
    refuse_cache(cat("allocator = \"", config_.allocator, "\" with ", duo,
                     ", whose gates say which heads keep how much"),
                 "allocator", "leave it out");
  }
  gates_ = read_head_gates(config_.duo_gates);
  expect_gates_fit(*gates_, graph_, config_.duo_gates);
  for (const auto* plan : evicting) {
    if (std::ranges::count(gates_->layers, plan->facts.layer, &HeadGatesFile::Layer::layer) > 0)
      continue;
    refuse_cache(cat(duo, " with layer ", plan->facts.layer,
                     ", whose rows grow and whose heads have no gates"),
                 "retention", "use another policy, such as \"h2o\"");
  }
}

void CachePlan::expect_gates_of(const DecoderImpl& model) const {
  if (!gates_ || gates_are_of_model_) return;
  gates_are_of_model_ = hash_of_weights(model, torch::kBFloat16) == gates_->weights;
  if (gates_are_of_model_) return;
  throw Error(ExitCode::kConfig, {"gates that were learned with other weights", config_.duo_gates,
                                  "make them with `kvsmith calibrate --method duo` of this model"});
}

KvCache CachePlan::make(const DecoderImpl& model,
                        const CacheOptions& options,
                        std::vector<std::shared_ptr<ReplayLog>>* logs) const {
  expect_gates_of(model);
  auto cache = model.make_cache(options);
  if (logs) logs->assign(layers_.size(), nullptr);
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    if (!layers_[layer]) continue;
    std::shared_ptr<ReplayLog> log;
    if (logs && layers_[layer]->retention) log = (*logs)[layer] = std::make_shared<ReplayLog>();
    std::unique_ptr<Memory> memory;
    if (layers_[layer]->kivi) {
      memory = std::make_unique<KiviRows>(options, *layers_[layer]->kivi);
    } else if (layers_[layer]->is_tiered()) {
      memory = std::make_unique<TieredRows>(layers_[layer], options);
    } else if (layers_[layer]->holds_pair()) {
      memory = std::make_unique<MergedLayers>(layers_[layer], options);
    } else if (layers_[layer]->merged_with >= 0) {
      memory = std::make_unique<UpperLayer>(layers_[layer]->merged_with);
    } else {
      memory = std::make_unique<ManagedRows>(layers_[layer], options, log);
    }
    cache.replace(static_cast<int64_t>(layer), std::move(memory));
  }
  cache.attach();
  return cache;
}

bool CachePlan::depends_on_text() const {
  return std::ranges::any_of(layers_,
                             [](const auto& plan) { return plan && plan->depends_on_text(); });
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

}  // namespace kvsmith
