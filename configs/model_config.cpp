#include "configs/model_config.h"

#include <algorithm>

#include "configs/kv_graph.h"
#include "core/text.h"

namespace kvsmith {
namespace {

void fill_in_latent(ModelConfig& config) {
  const auto has = [&](const char* kind) {
    return std::ranges::find(config.layer_types, kind) != config.layer_types.end();
  };
  const auto fill = [](int64_t& value, int64_t usual) {
    if (value == 0) value = usual;
  };
  LatentConfig& sizes = config.latent;
  const bool has_latents = has("latent") || has("grouped_latent");
  if (has_latents || has("gta")) fill(sizes.qk_rope_head_dim, config.head_dim / 2);
  if (!has_latents) return;
  fill(sizes.kv_lora_rank, 4 * config.head_dim);
  fill(sizes.qk_nope_head_dim, config.head_dim);
  fill(sizes.v_head_dim, config.head_dim);
}

void fill_in_linear(ModelConfig& config) {
  const auto is_linear = [](const std::string& type) {
    return type == "gated_delta" || type == "gla";
  };
  if (std::ranges::none_of(config.layer_types, is_linear)) return;
  auto& linear = config.linear;
  if (linear.linear_num_heads == 0) linear.linear_num_heads = config.num_key_value_heads;
  if (linear.linear_head_dim == 0) linear.linear_head_dim = config.head_dim;
}

void fill_in_autoencoder(ModelConfig& config) {
  if (std::ranges::find(config.layer_types, "autoencoded") == config.layer_types.end()) return;
  auto& sizes = config.autoencoder;
  if (sizes.autoencoder_dim == 0) sizes.autoencoder_dim = std::max<int64_t>(1, config.head_dim / 2);
  if (sizes.autoencoder_hidden == 0) sizes.autoencoder_hidden = config.head_dim;
}

}  // namespace

std::vector<KeyProblem> fill_in(ModelConfig& config) {
  if (config.num_key_value_heads == 0)
    config.num_key_value_heads = config.pattern == "mqa" ? 1 : config.num_attention_heads;
  if (config.head_dim == 0) config.head_dim = config.hidden_size / config.num_attention_heads;
  if (config.intermediate_size == 0) {
    constexpr int64_t kMultiple = 64;  // keeps GEMM shapes aligned
    config.intermediate_size = (config.hidden_size * 8 / 3 + kMultiple - 1) / kMultiple * kMultiple;
  }
  fill_in_latent(config);
  fill_in_autoencoder(config);
  auto problems = fill_in_layers(config);
  fill_in_linear(config);
  return problems;
}

std::string architecture_name(const ModelConfig& config) {
  const int64_t heads = config.num_attention_heads, kv = config.num_key_value_heads;
  std::string family = kv == heads ? cat("MHA ", heads)
                       : kv == 1   ? cat("MQA ", heads)
                                   : cat("GQA ", heads, "/", kv);
  const std::string& pattern = config.pattern;
  if (config.attention_k_eq_v) {
    ModelConfig plain = config;
    plain.attention_k_eq_v = false;
    return "K=V " + architecture_name(plain);
  }
  if (pattern == "mha" || pattern == "gqa" || pattern == "mqa") return family;
  std::vector<std::string> kinds;
  for (const auto& type : config.layer_types)
    if (std::ranges::find(kinds, type) == kinds.end()) kinds.push_back(type);
  if (!pattern.empty()) {
    const bool other = !kinds.empty() && layer_kind(kinds[0]).row_format != "kv";
    return cat(pattern, " ", other ? kinds[0] + " " : "", family);
  }
  const bool shares = KvGraph(config).owners() < static_cast<int64_t>(config.layer_types.size());
  const bool plain = kinds.empty() || (kinds.size() == 1 && kinds[0] == "full");
  const bool is_latent =
      kinds.size() == 1 && (kinds[0] == "latent" || kinds[0] == "grouped_latent");
  if (is_latent) return cat(kinds[0] == "latent" ? "MLA " : "GLA-2 ", heads);
  return (plain ? "" : join(kinds, "+") + " ") + (shares ? "shared " : "") + family;
}

const std::vector<LayerKind>& layer_kinds() {
  static const std::vector<LayerKind> kinds = {
      {"full", "attention to every earlier token", true, "kv"},
      {"sliding", "attention to the last sliding_window tokens and the sinks", true, "kv"},
      {"fused", "attention to a learned mixture of two layers' keys and values", true, "kv"},
      {"latent", "MLA: keys and values are made from one small latent a token", true, "latent"},
      {"grouped_latent", "GLA-2: two latents a token, each for half of the heads", true,
       "grouped_latent"},
      {"gta", "grouped tied attention: values are also part of the keys", true, "gta"},
      {"autoencoded", "attention to keys and values that are remembered as small codes", true,
       "autoencoded"},
      {"bounded", "sinks, a window, and slots that absorb what leaves it", false, ""},
      {"rattention", "sinks, a window, and a linear-attention state of what leaves it", false, ""},
      {"gated_delta", "gated DeltaNet: a state that the delta rule corrects", false, ""},
      {"gla", "gated linear attention: a state with a gate for each key channel", false, ""},
      {"gsa", "attention to num_slots slots that gates overwrite", false, ""},
      {"abc", "attention to num_slots running averages that forget nothing", false, ""},
  };
  return kinds;
}

const LayerKind& layer_kind(const std::string& name) {
  const auto found = std::ranges::find(layer_kinds(), name, &LayerKind::name);
  return found == layer_kinds().end() ? layer_kinds().front() : *found;
}

}  // namespace kvsmith
