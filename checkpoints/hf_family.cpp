#include "checkpoints/hf_family.h"

#include <algorithm>
#include <vector>

#include "checkpoints/hf_gemma.h"
#include "checkpoints/mistral_large4.h"
#include "configs/kv_graph.h"
#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

[[noreturn]] void refuse(const std::string& who, const std::string& why) {
  throw Error(ExitCode::kConfig, {who + " holds this model: " + why, "export",
                                  "use --format kvsmith, which `kvsmith` reads everywhere"});
}

bool has_one_theta(const ModelConfig& c) {
  const auto& theta = c.layer_rope_theta;
  return theta[0] > 0 && std::ranges::count(theta, theta[0]) == std::ssize(theta);
}

/// Options of Gemma's block that no class of another family has; empty: none is set.
std::string block_obstacle(const ModelConfig& c) {
  for (const auto& [key, is_set] :
       {std::pair("sandwich_norm", c.sandwich_norm), std::pair("v_norm", c.v_norm),
        std::pair("scale_embeddings", c.scale_embeddings),
        std::pair("query_pre_attn_scalar", c.query_pre_attn_scalar > 0)}) {
    if (is_set) return cat("a block with ", key);
  }
  return "";
}

/// What keeps a model of softmax attention out of every class of Llama's shape; empty: nothing.
std::string attention_obstacle(const ModelConfig& c, const KvGraph& graph) {
  if (auto why = block_obstacle(c); !why.empty()) return why;
  for (int64_t i = 0; i < graph.size(); ++i) {
    const LayerSpec& spec = graph[i];
    if (spec.kind != "full" && spec.kind != "sliding")
      return cat("layer ", i, " is of kind \"", spec.kind, "\"");
    if (spec.sinks > 0) return cat("layer ", i, " keeps ", spec.sinks, " sink tokens");
  }
  if (c.attention_k_eq_v) return "values are made from keys (attention_k_eq_v)";
  return "";
}

/// Key/value heads that are not the same in every layer.
std::string uneven_heads(const KvGraph& graph) {
  for (int64_t i = 0; i < graph.size(); ++i) {
    if (graph[i].kv_heads != graph[0].kv_heads)
      return cat("layer ", i, " has ", graph[i].kv_heads, " key/value heads, layer 0 has ",
                 graph[0].kv_heads);
  }
  return "";
}

std::string stock_obstacle(const ModelConfig& c, const KvGraph& graph) {
  if (auto why = attention_obstacle(c, graph); !why.empty()) return why;
  for (int64_t i = 0; i < graph.size(); ++i) {
    const LayerSpec& spec = graph[i];
    if (spec.k_source != i || spec.v_source != i) {
      return cat("layer ", i, " reads keys and values of layer ", spec.k_source,
                 spec.k_source == spec.v_source ? " (--format lckv may hold it)" : "");
    }
  }
  if (!has_one_theta(c) && c.qk_norm) return "layers differ in rope_theta and have qk_norm";
  return c.attention_sink_logits && c.qk_norm ? "sink logits and qk_norm" : "";
}

bool shares_latents(const KvGraph& graph) { return graph.owners() < graph.size(); }

std::string latent_obstacle(const ModelConfig& c, const KvGraph& graph) {
  if (auto why = block_obstacle(c); !why.empty()) return why;
  for (int64_t i = 0; i < graph.size(); ++i) {
    const LayerSpec& spec = graph[i];
    if (spec.kind != "latent")
      return cat("layer ", i, " is of kind \"", spec.kind, "\" beside latent ones");
  }
  if (!has_one_theta(c)) return "latent layers differ in rope_theta, or have none";
  if (!shares_latents(graph)) return "";
  if (auto why = mistral_large4::sharing_obstacle(c.k_source_layers); !why.empty()) return why;
  if (c.latent.q_lora_rank > 0) return "layers share latents, and queries are compressed";
  constexpr double kLeastEps = 1e-9;
  return c.rms_norm_eps < kLeastEps
             ? cat("layers share latents, and rms_norm_eps is below ", kLeastEps)
             : "";
}

std::string gguf_obstacle(const ModelConfig& c, const KvGraph& graph) {
  if (auto why = stock_obstacle(c, graph); !why.empty()) return why;
  for (int64_t i = 0; i < graph.size(); ++i) {
    if (graph[i].window > 0)
      return cat("layer ", i, " sees a window of ", graph[i].window, " tokens (--format hf may ",
                 "hold it)");
  }
  if (!has_one_theta(c)) return "layers differ in rope_theta, or have none";
  if (c.attention_sink_logits) return "the softmax has sink logits (attention_sink_logits)";
  if (c.hidden_act != "silu") return "hidden_act is " + c.hidden_act;
  if (auto uneven = uneven_heads(graph); c.qk_norm && !uneven.empty())
    return uneven + ", and queries and keys are normed (qk_norm)";
  if (c.attention_bias && c.qk_norm) return "biases (attention_bias) beside qk_norm";
  if (c.attention_bias && c.num_attention_heads * c.head_dim != c.hidden_size)
    return cat("biases (attention_bias), and ", c.num_attention_heads, " heads of ", c.head_dim,
               " are not hidden_size ", c.hidden_size);
  return "";
}

std::string lckv_obstacle(const ModelConfig& c, const KvGraph& graph) {
  if (auto why = attention_obstacle(c, graph); !why.empty()) return why;
  if (auto why = uneven_heads(graph); !why.empty()) return why;
  for (int64_t i = 0; i < graph.size(); ++i) {
    if (graph[i].k_source != graph[i].v_source) {
      return cat("layer ", i, " reads keys of layer ", graph[i].k_source, " and values of layer ",
                 graph[i].v_source);
    }
  }
  if (!has_one_theta(c)) return "layers differ in rope_theta, or have none";
  if (c.qk_norm) return "queries and keys are normed (qk_norm)";
  if (c.attention_sink_logits) return "the softmax has sink logits (attention_sink_logits)";
  return odd_width(c);
}

}  // namespace

std::string odd_width(const ModelConfig& c) {
  if (c.hidden_size % c.num_attention_heads == 0) return "";
  return cat("hidden_size ", c.hidden_size, " is no multiple of ", c.num_attention_heads, " heads");
}

HfFamily hf_family_of(const ModelConfig& c) {
  const KvGraph graph(c);
  const auto count = [&](const char* kind) { return std::ranges::count(c.layer_types, kind); };
  const bool is_latent = count("latent") > 0;
  std::string why = c.sandwich_norm ? gemma_obstacle(c, graph)
                    : is_latent     ? latent_obstacle(c, graph)
                                    : stock_obstacle(c, graph);
  if (why.empty() && !is_latent && !c.sandwich_norm) why = uneven_heads(graph);
  if (!why.empty()) refuse("no class of transformers", why);
  if (c.sandwich_norm)
    return {c.v_norm ? "Gemma4ForCausalLM" : "Gemma3ForCausalLM", gemma_type_of(c)};
  if (is_latent) {
    if (!shares_latents(graph))
      return {.architecture = "YoutuForCausalLM", .model_type = "youtu", .is_latent = true};
    return {.architecture = "MistralLarge4ForConditionalGeneration",
            .model_type = mistral_large4::kModelType,
            .is_latent = true};
  }

  const bool windows = count("sliding") > 0, all_windows = count("full") == 0;
  if (c.qk_norm) return {"Qwen3ForCausalLM", "qwen3", windows};
  if (!has_one_theta(c) || c.attention_sink_logits || (windows && !all_windows) ||
      (windows && c.attention_bias)) {
    return {"GraniteSWAForCausalLM", "granite_swa", true, true};
  }
  const auto odd = odd_width(c);
  if (!odd.empty() && c.attention_bias)
    refuse("no class of transformers", odd + ", and attention_bias is on");
  if (windows || !odd.empty()) return {"MistralForCausalLM", "mistral"};
  return {"LlamaForCausalLM", "llama"};
}

std::string_view gguf_architecture_of(const ModelConfig& c) {
  const KvGraph graph(c);
  if (const auto why = gguf_obstacle(c, graph); !why.empty())
    refuse("no GGUF architecture among llama, deci, qwen2 and qwen3", why);
  if (!uneven_heads(graph).empty()) return "deci";
  return c.qk_norm ? "qwen3" : c.attention_bias ? "qwen2" : "llama";
}

std::string lckv_layer_types(const ModelConfig& c) {
  const KvGraph graph(c);
  if (const auto why = lckv_obstacle(c, graph); !why.empty())
    refuse("no model of the lckv-llama layout", why);
  std::vector<std::string> parts;
  for (int64_t i = 0; i < graph.size(); ++i)
    parts.push_back(cat(graph[i].k_source, graph[i].window > 0 ? "s" : ""));
  return join(parts, "_");
}

}  // namespace kvsmith
