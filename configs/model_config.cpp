#include "configs/model_config.h"

#include <algorithm>

#include "configs/kv_graph.h"
#include "core/text.h"

namespace kvsmith {

std::vector<KeyProblem> fill_in(ModelConfig& config) {
  if (config.num_key_value_heads == 0)
    config.num_key_value_heads = config.pattern == "mqa" ? 1 : config.num_attention_heads;
  if (config.head_dim == 0) config.head_dim = config.hidden_size / config.num_attention_heads;
  if (config.intermediate_size == 0) {
    constexpr int64_t kMultiple = 64;  // keeps GEMM shapes aligned
    config.intermediate_size = (config.hidden_size * 8 / 3 + kMultiple - 1) / kMultiple * kMultiple;
  }
  return fill_in_layers(config);
}

std::string architecture_name(const ModelConfig& config) {
  const int64_t heads = config.num_attention_heads, kv = config.num_key_value_heads;
  const std::string family = kv == heads ? cat("MHA ", heads)
                             : kv == 1   ? cat("MQA ", heads)
                                         : cat("GQA ", heads, "/", kv);
  const std::string& pattern = config.pattern;
  if (pattern == "mha" || pattern == "gqa" || pattern == "mqa") return family;
  if (!pattern.empty()) return pattern + " " + family;
  std::vector<std::string> kinds;
  for (const auto& type : config.layer_types)
    if (std::ranges::find(kinds, type) == kinds.end()) kinds.push_back(type);
  const bool shares = KvGraph(config).owners() < static_cast<int64_t>(config.layer_types.size());
  const bool plain = kinds.empty() || (kinds.size() == 1 && kinds[0] == "full");
  return (plain ? "" : join(kinds, "+") + " ") + (shares ? "shared " : "") + family;
}

const std::vector<LayerKind>& layer_kinds() {
  static const std::vector<LayerKind> kinds = {
      {"full", "attention to every earlier token", true, "kv"},
      {"sliding", "attention to the last sliding_window tokens and the sinks", true, "kv"},
      {"fused", "attention to a learned mixture of two layers' keys and values", true, "kv"},
      {"bounded", "sinks, a window, and slots that absorb what leaves it", false, ""},
  };
  return kinds;
}

const LayerKind& layer_kind(const std::string& name) {
  const auto found = std::ranges::find(layer_kinds(), name, &LayerKind::name);
  return found == layer_kinds().end() ? layer_kinds().front() : *found;
}

}  // namespace kvsmith
