#include "checkpoints/hf_gemma.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <torch/types.h>

#include "checkpoints/hf_family.h"
#include "checkpoints/hf_keys.h"
#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kGemma3 = "gemma3_text";
constexpr const char* kGemma4 = "gemma4_text";

[[noreturn]] void refuse(const std::string& what, const std::string& where) {
  throw Error(ExitCode::kConfig, {what, where, "models without it can be read"});
}

/// Whose keys and values each layer reads where the last `shared` layers have none: those of the
/// last layer of their kind that has. -1: there is none.
std::vector<int64_t> trailing_sources(const std::vector<std::string>& types, int64_t shared) {
  const int64_t owners = std::ssize(types) - shared;
  std::vector<int64_t> out;
  for (int64_t i = 0; i < std::ssize(types); ++i) {
    int64_t source = std::min(i, owners - 1);
    while (source >= 0 && types[static_cast<size_t>(source)] != types[static_cast<size_t>(i)])
      --source;
    out.push_back(source);
  }
  return out;
}

/// Layers at the end that read others.
int64_t shared_layers(const ModelConfig& c) {
  const auto& sources = c.k_source_layers;
  int64_t first = c.num_hidden_layers;
  while (first > 0 && sources[static_cast<size_t>(first - 1)] != first - 1) --first;
  return c.num_hidden_layers - first;
}

/// Key/value heads of the layers of a kind; 0: there are none.
int64_t heads_of(const ModelConfig& c, const char* kind) {
  const auto found = std::ranges::find(c.layer_types, kind);
  if (found == c.layer_types.end()) return 0;
  return c.layer_num_key_value_heads[static_cast<size_t>(found - c.layer_types.begin())];
}

double theta_of(const ModelConfig& c, const char* kind) {
  const auto found = std::ranges::find(c.layer_types, kind);
  return c.layer_rope_theta[static_cast<size_t>(found - c.layer_types.begin())];
}

/// Kinds of the layers; where they are not listed, a period of sliding layers ends in a full one.
std::vector<std::string> kinds_of(const Json& json,
                                  const ModelConfig& c,
                                  const std::string& where) {
  std::vector<std::string> out;
  if (is_set(json, "layer_types")) {
    out = read_layer_types(json, c.num_hidden_layers, where);
  } else {
    constexpr int64_t kUsualPeriod = 6;
    const int64_t period = json.value("sliding_window_pattern", kUsualPeriod);
    for (int64_t i = 1; i <= c.num_hidden_layers; ++i)
      out.emplace_back(period > 0 && i % period == 0 ? "full" : "sliding");
  }
  if (json.at("model_type") == kGemma4) out.back() = "full";  // as the class does
  return out;
}

double theta_in(const Json& json, bool slides, const std::string& where) {
  const char* layers = slides ? "sliding_attention" : "full_attention";
  const double usual = slides ? 1e4 : 1e6;
  if (is_set(json, "rope_parameters")) {
    const Json& rope = json.at("rope_parameters");
    if (!is_set(rope, layers)) refuse(cat("rope_parameters without ", layers), where);
    return unscaled_theta(rope.at(layers), usual, where);
  }
  if (json.at("model_type") == kGemma4)
    refuse("rope_parameters are missing, and the default rotates parts of heads", where);
  expect_no_scaling(json, where);
  return json.value(slides ? "rope_local_base_freq" : "rope_theta", usual);
}

/// Key/value heads of the layers of `gemma4_text`: a list of what differs from layer to layer, as
/// transformers saves it, or two keys about full layers.
std::vector<int64_t> heads_in(const Json& json, const ModelConfig& c, const std::string& where) {
  std::vector<int64_t> out(static_cast<size_t>(c.num_hidden_layers), c.num_key_value_heads);
  Json full = {{"head_dim", 512}};  // the class's own
  if (is_set(json, "global_head_dim")) full["head_dim"] = json.at("global_head_dim");
  if (json.value("attention_k_eq_v", false) && is_set(json, "num_global_key_value_heads"))
    full["num_key_value_heads"] = json.at("num_global_key_value_heads");
  const bool is_listed = is_set(json, "per_layer_config");
  for (size_t i = 0; i < out.size(); ++i) {
    Json own = Json::object();
    if (is_listed) {
      own = json.at("per_layer_config").value(std::to_string(i), own);
    } else if (c.layer_types[i] == "full") {
      own = full;
    }
    for (const auto& [key, value] : own.items()) {
      if (key == "num_key_value_heads") {
        out[i] = value.get<int64_t>();
      } else if (key != "head_dim" || value != c.head_dim) {
        refuse(cat("layer ", i, " has its own ", key, ", ", value.dump()), where);
      }
    }
  }
  return out;
}

void expect_plain(const Json& json, const std::string& where) {
  for (const char* key : {"final_logit_softcapping", "attn_logit_softcapping"})
    if (is_set(json, key)) refuse(cat(key, " is not supported"), where);
  const Json bidirectional = json.value("use_bidirectional_attention", Json());
  if (bidirectional == true || bidirectional == "all")
    refuse("use_bidirectional_attention: tokens would see later ones", where);
  if (json.value("enable_moe_block", false))
    refuse("enable_moe_block: mixtures of experts are not supported", where);
}

/// Sharing and keys that are made from values.
void read_gemma4(const Json& json, ModelConfig& c, const std::string& where) {
  c.v_norm = true;
  c.query_pre_attn_scalar = 1;
  c.attention_k_eq_v = json.value("attention_k_eq_v", false);
  c.layer_num_key_value_heads = heads_in(json, c, where);
  const int64_t shared = json.value("num_kv_shared_layers", int64_t{0});
  if (shared == 0) return;
  if (json.value("use_double_wide_mlp", false))
    refuse("use_double_wide_mlp: feed-forward widths that differ", where);
  if (shared < 0 || shared >= c.num_hidden_layers) {
    refuse(cat("num_kv_shared_layers is ", shared, " of ", c.num_hidden_layers, " layers"), where);
  }
  c.kv_source_layers = trailing_sources(c.layer_types, shared);
  if (const auto none = std::ranges::find(c.kv_source_layers, -1); none != c.kv_source_layers.end())
    refuse(cat("layer ", none - c.kv_source_layers.begin(),
               " shares keys and values, and no layer of its kind has any"),
           where);
}

}  // namespace

bool is_gemma(const std::string& type) { return type == kGemma3 || type == kGemma4; }

bool is_offset_norm(const Json& json, const std::string& name) {
  return json.value("model_type", "") == kGemma3 && name.ends_with("norm.weight");
}

const char* gemma_type_of(const ModelConfig& c) { return c.v_norm ? kGemma4 : kGemma3; }

std::string gemma_obstacle(const ModelConfig& c, const KvGraph& graph) {
  for (const auto& [key, is_set] :
       {std::pair("sandwich_norm", c.sandwich_norm), std::pair("qk_norm", c.qk_norm),
        std::pair("scale_embeddings", c.scale_embeddings)}) {
    if (!is_set) return cat("not all of Gemma's block, ", key, " is off");
  }
  if (c.attention_sink_logits) return "the softmax has sink logits (attention_sink_logits)";
  if (c.v_norm && c.query_pre_attn_scalar != 1)
    return "Gemma 4's block (v_norm), and query_pre_attn_scalar is not 1";
  if (c.v_norm && c.layer_types.back() != "full")
    return "Gemma 4's block (v_norm), and the last layer is not full";
  if (!c.v_norm && c.query_pre_attn_scalar != std::floor(c.query_pre_attn_scalar))
    return "Gemma 3's block (v_norm is off), and query_pre_attn_scalar is no whole number";
  if (!c.v_norm && c.attention_k_eq_v)
    return "Gemma 3's block (v_norm is off), and attention_k_eq_v is on";
  if (const auto odd = odd_width(c); !c.v_norm && !odd.empty())
    return "Gemma 3's block (v_norm is off), and " + odd;
  const auto sources = trailing_sources(c.layer_types, shared_layers(c));
  for (int64_t i = 0; i < graph.size(); ++i) {
    const LayerSpec& spec = graph[i];
    const auto because = [&](const auto&... parts) { return cat("layer ", i, " ", parts...); };
    if (spec.kind != "full" && spec.kind != "sliding")
      return because("is of kind \"", spec.kind, "\"");
    if (spec.sinks > 0) return because("keeps ", spec.sinks, " sink tokens");
    if (spec.rope_theta == 0) return because("has no rope_theta");
    const char* kind = spec.kind.c_str();
    if (spec.rope_theta != theta_of(c, kind) || spec.kv_heads != heads_of(c, kind))
      return because("has another rope_theta or number of heads than others that are ", kind);
    const bool owns = spec.k_source == i && spec.v_source == i;
    if (!c.v_norm && !owns)
      return because("reads keys of layer ", spec.k_source, ", in Gemma 3's block (v_norm is off)");
    const int64_t source = sources[static_cast<size_t>(i)];
    if (spec.k_source != source || spec.v_source != source) {
      return because("reads keys of layer ", spec.k_source, " and values of layer ", spec.v_source,
                     ", where only trailing layers may share those of the last one before them");
    }
  }
  const int64_t local = heads_of(c, "sliding"), full = heads_of(c, "full");
  if (local != 0 && full != 0 && local != full && !c.attention_k_eq_v) {
    return cat("full layers have ", full, " key/value heads, sliding ones ", local,
               ", which needs attention_k_eq_v");
  }
  return "";
}

void write_gemma(const ModelConfig& c, Json& json) {
  for (const char* key : {"hidden_act", "rope_theta", "mlp_bias", "use_sliding_window"})
    json.erase(key);
  const bool has_windows = json.contains("sliding_window");
  const int64_t full = heads_of(c, "full");
  json["num_key_value_heads"] = has_windows ? heads_of(c, "sliding") : full;
  json["hidden_activation"] = c.hidden_act;
  json["layer_types"] = to_layer_types(c.layer_types);
  json["rope_parameters"] = Json::object();
  for (const char* kind : {"sliding", "full"}) {
    if (std::ranges::find(c.layer_types, kind) == c.layer_types.end()) continue;
    json["rope_parameters"][cat(kind, "_attention")] = {{"rope_type", "default"},
                                                        {"rope_theta", theta_of(c, kind)}};
  }
  json["pad_token_id"] = Json();  // the class's own may be a token of the text
  if (!c.v_norm) {
    json["query_pre_attn_scalar"] =
        c.query_pre_attn_scalar > 0 ? std::llround(c.query_pre_attn_scalar) : c.head_dim;
    return;
  }
  const int64_t shared = shared_layers(c);
  json["num_global_key_value_heads"] = c.attention_k_eq_v ? Json(full) : Json();
  json["global_head_dim"] = c.head_dim;
  json["attention_k_eq_v"] = c.attention_k_eq_v;
  json["num_kv_shared_layers"] = shared;
  json["hidden_size_per_layer_input"] = shared > 0 ? 1 : 0;
  json["vocab_size_per_layer_input"] = c.vocab_size;
}

NamedTensors gemma_constants(const ModelConfig& c) {
  if (!c.v_norm) return {};
  const int64_t layers = c.num_hidden_layers, width = c.hidden_size;
  NamedTensors out;
  const bool shares = shared_layers(c) > 0;
  for (int64_t i = 0; i < layers; ++i) {
    const std::string at = cat("model.layers.", i, ".");
    out.emplace_back(at + "layer_scalar", torch::ones({1}));
    if (!shares) continue;
    out.emplace_back(at + "per_layer_input_gate.weight", torch::zeros({1, width}));
    out.emplace_back(at + "per_layer_projection.weight", torch::zeros({width, 1}));
    out.emplace_back(at + "post_per_layer_input_norm.weight", torch::zeros({width}));
  }
  if (!shares) return out;
  out.emplace_back("model.embed_tokens_per_layer.weight", torch::zeros({c.vocab_size, layers}));
  out.emplace_back("model.per_layer_model_projection.weight", torch::zeros({layers, width}));
  out.emplace_back("model.per_layer_projection_norm.weight", torch::zeros({1}));
  return out;
}

void read_gemma(const Json& json, ModelConfig& c, const std::string& where) {
  expect_plain(json, where);
  c.scale_embeddings = c.sandwich_norm = c.qk_norm = true;
  // the classes have numbers of their own for what is missing
  c.num_key_value_heads = required<int64_t>(json, "num_key_value_heads", where);
  c.head_dim = required<int64_t>(json, "head_dim", where);
  c.layer_types = kinds_of(json, c, where);
  const auto has = [&](const char* kind) { return std::ranges::count(c.layer_types, kind) > 0; };
  if (has("full")) c.rope_theta = theta_in(json, /*slides=*/false, where);
  if (has("sliding")) {
    c.rope_local_theta = theta_in(json, /*slides=*/true, where);
    c.sliding_window = required<int64_t>(json, "sliding_window", where);
  }
  if (json.at("model_type") == kGemma4) return read_gemma4(json, c, where);
  c.query_pre_attn_scalar = required<double>(json, "query_pre_attn_scalar", where);
}

}  // namespace kvsmith
