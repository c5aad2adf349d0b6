#include "checkpoints/hf_config.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "configs/kv_graph.h"
#include "configs/run_config.h"
#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

template <class T>
T required(const Json& json, const char* key, const std::string& where) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) {
    throw Error(ExitCode::kConfig, {cat("key \"", key, "\" is missing"), where,
                                    "is this the config.json of a decoder-only model?"});
  }
  return found->get<T>();
}

/// transformers 5 nests the base under rope_parameters, earlier versions have rope_theta.
double rope_theta(const Json& json, const std::string& where) {
  const Json rope = json.value("rope_parameters", Json());
  if (rope.is_object()) {
    const std::string type = rope.value("rope_type", "default");
    if (type != "default") {
      throw Error(ExitCode::kConfig, {"rope_type \"" + type + "\" is not supported", where,
                                      "only unscaled rotary embeddings are"});
    }
    return rope.value("rope_theta", 10000.0);
  }
  if (const auto scaling = json.find("rope_scaling");
      scaling != json.end() && !scaling->is_null()) {
    throw Error(ExitCode::kConfig,
                {"rope_scaling is not supported", where, "only unscaled rotary embeddings are"});
  }
  return json.value("rope_theta", 10000.0);
}

/// A stock class and what it has beyond Llama's.
struct Family {
  const char* architecture;
  const char* model_type;
  bool has_layers = false;  ///< layer_types
  bool has_theta = false;   ///< layer_rope_theta and sink logits (granite_swa)
};

/// Why no stock class holds `c`; empty when one does.
std::string obstacle(const ModelConfig& c) {
  const KvGraph graph(c);
  for (int64_t i = 0; i < graph.size(); ++i) {
    const LayerSpec& spec = graph[i];
    if (spec.kind != "full" && spec.kind != "sliding")
      return cat("layer ", i, " is of kind \"", spec.kind, "\"");
    if (spec.k_source != i || spec.v_source != i)
      return cat("layer ", i, " reads keys and values of layer ", spec.k_source);
    if (spec.kv_heads != c.num_key_value_heads)
      return cat("layer ", i, " has ", spec.kv_heads, " key/value heads, others ",
                 c.num_key_value_heads);
    if (spec.sinks > 0) return cat("layer ", i, " keeps ", spec.sinks, " sink tokens");
  }
  if (c.attention_k_eq_v) return "values are made from keys (attention_k_eq_v)";
  return "";
}

Family family_of(const ModelConfig& c) {
  const auto count = [&](const char* kind) { return std::ranges::count(c.layer_types, kind); };
  const auto& theta = c.layer_rope_theta;
  const bool one_theta = theta[0] > 0 && std::ranges::count(theta, theta[0]) == std::ssize(theta);
  const bool windows = count("sliding") > 0, all_windows = count("full") == 0;
  std::string why = obstacle(c);
  if (why.empty() && !one_theta && c.qk_norm) why = "layers differ in rope_theta and have qk_norm";
  if (why.empty() && c.attention_sink_logits && c.qk_norm) why = "sink logits and qk_norm";
  if (!why.empty()) {
    throw Error(ExitCode::kConfig, {"no class of transformers holds this model: " + why, "export",
                                    "use --format kvsmith, which `kvsmith` reads everywhere"});
  }
  if (c.qk_norm) return {"Qwen3ForCausalLM", "qwen3", windows};
  if (!one_theta || c.attention_sink_logits || (windows && !all_windows) ||
      (windows && c.attention_bias)) {
    return {"GraniteSWAForCausalLM", "granite_swa", true, true};
  }
  if (windows) return {"MistralForCausalLM", "mistral"};
  return {"LlamaForCausalLM", "llama"};
}

/// layer_types of transformers in our words.
std::vector<std::string> layer_types(const Json& json, const std::string& where) {
  std::vector<std::string> out;
  for (const auto& item : json) {
    const auto type = item.get<std::string>();
    if (type != "full_attention" && type != "sliding_attention") {
      throw Error(ExitCode::kConfig, {"layer type \"" + type + "\" is not supported", where,
                                      "supported: full_attention, sliding_attention"});
    }
    out.emplace_back(type == "full_attention" ? "full" : "sliding");
  }
  return out;
}

/// Windows and rotary bases of the layers.
void read_layers(const Json& json,
                 const std::string& type,
                 ModelConfig& c,
                 const std::string& where) {
  const auto window = json.find("sliding_window");
  const bool on = window != json.end() && !window->is_null() &&
                  json.value("use_sliding_window", type == "mistral" || type == "granite_swa");
  if (on) {
    c.sliding_window = window->get<int64_t>();
    const auto types = json.find("layer_types");
    if (types != json.end() && !types->is_null()) {
      c.layer_types = layer_types(*types, where);
    } else if (type == "mistral") {
      c.layer_types = {"sliding"};
    } else {
      throw Error(ExitCode::kConfig,
                  {"sliding_window without layer_types", where, "write layer_types out"});
    }
  }
  if (type == "granite_swa") {
    c.attention_sink_logits = true;
    const auto theta = json.find("layer_rope_theta");
    if (theta != json.end() && !theta->is_null())
      c.layer_rope_theta = theta->get<std::vector<double>>();
    const double scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
    for (const auto& [key, value] :
         std::vector<std::pair<const char*, double>>{{"attention_multiplier", scale},
                                                     {"embedding_multiplier", 1},
                                                     {"residual_multiplier", 1},
                                                     {"logits_scaling", 1}}) {
      constexpr double kRounding = 1e-6;
      if (std::abs(json.value(key, 1.0) - value) > kRounding) {
        throw Error(ExitCode::kConfig, {cat(key, " is ", json.value(key, 1.0)), where,
                                        cat("only ", value, " is supported")});
      }
    }
  }
}

}  // namespace

Json to_hf_config(const ModelConfig& c, int64_t bos_id, int64_t eos_id, const std::string& dtype) {
  const Family family = family_of(c);
  Json json = {{"architectures", {family.architecture}},
               {"model_type", family.model_type},
               {"vocab_size", c.vocab_size},
               {"hidden_size", c.hidden_size},
               {"intermediate_size", c.intermediate_size},
               {"num_hidden_layers", c.num_hidden_layers},
               {"num_attention_heads", c.num_attention_heads},
               {"num_key_value_heads", c.num_key_value_heads},
               {"head_dim", c.head_dim},
               {"hidden_act", "silu"},
               {"max_position_embeddings", c.max_position_embeddings},
               {"initializer_range", c.initializer_range},
               {"rms_norm_eps", c.rms_norm_eps},
               {"rope_theta", c.layer_rope_theta[0] > 0 ? c.layer_rope_theta[0] : c.rope_theta},
               {"tie_word_embeddings", c.tie_word_embeddings},
               {"attention_bias", c.attention_bias},
               {"attention_dropout", 0.0},
               {"mlp_bias", false},
               {"use_cache", true},
               {"torch_dtype", dtype}};
  const bool windows = std::ranges::find(c.layer_types, "sliding") != c.layer_types.end();
  if (windows) {
    json["sliding_window"] = c.sliding_window;
    json["use_sliding_window"] = true;
  }
  if (family.has_layers) {
    json["layer_types"] = Json::array();
    for (const auto& type : c.layer_types) json["layer_types"].push_back(type + "_attention");
  }
  if (family.has_theta) {
    json["layer_rope_theta"] = c.layer_rope_theta;
    json["attention_multiplier"] = 1 / std::sqrt(static_cast<double>(c.head_dim));
    for (const char* key : {"embedding_multiplier", "residual_multiplier", "logits_scaling"})
      json[key] = 1.0;
  }
  if (bos_id >= 0) json["bos_token_id"] = bos_id;
  if (eos_id >= 0) json["eos_token_id"] = eos_id;
  return json;
}

ModelConfig from_hf_config(const Json& json, const std::string& where) {
  const auto type = required<std::string>(json, "model_type", where);
  const std::vector<std::string> supported = {"granite_swa", "llama", "mistral", "qwen2", "qwen3"};
  if (std::ranges::find(supported, type) == supported.end()) {
    throw Error(ExitCode::kConfig, {"model_type \"" + type + "\" is not supported", where,
                                    "supported: " + join(supported)});
  }
  if (const auto act = json.value("hidden_act", "silu"); act != "silu") {
    throw Error(ExitCode::kConfig,
                {"hidden_act \"" + act + "\" is not supported", where, "only silu is"});
  }
  if (json.value("mlp_bias", false)) {
    throw Error(ExitCode::kConfig,
                {"biases in the feed-forward layer are not supported", where, ""});
  }
  ModelConfig c;
  c.vocab_size = required<int64_t>(json, "vocab_size", where);
  c.hidden_size = required<int64_t>(json, "hidden_size", where);
  c.intermediate_size = required<int64_t>(json, "intermediate_size", where);
  c.num_hidden_layers = required<int64_t>(json, "num_hidden_layers", where);
  c.num_attention_heads = required<int64_t>(json, "num_attention_heads", where);
  c.num_key_value_heads = json.value("num_key_value_heads", int64_t{0});
  c.head_dim = json.contains("head_dim") && !json["head_dim"].is_null()
                   ? json["head_dim"].get<int64_t>()
                   : 0;
  c.max_position_embeddings = json.value("max_position_embeddings", int64_t{2048});
  c.rms_norm_eps = json.value("rms_norm_eps", 1e-6);
  c.initializer_range = json.value("initializer_range", 0.02);
  c.rope_theta = rope_theta(json, where);
  c.tie_word_embeddings = json.value("tie_word_embeddings", false);
  c.qk_norm = type == "qwen3";
  c.attention_bias = type == "qwen2" || json.value("attention_bias", false);
  if (c.head_dim == 0) c.head_dim = c.hidden_size / std::max<int64_t>(1, c.num_attention_heads);
  read_layers(json, type, c, where);
  if (c.max_position_embeddings < 2) {
    throw Error(ExitCode::kConfig, {cat("max_position_embeddings is ", c.max_position_embeddings),
                                    where, "expected at least 2"});
  }
  // the same ranges and relations as for a file of ours
  RunConfig run;
  run.model = c;
  run.train.sequence_length = std::min(run.train.sequence_length, c.max_position_embeddings);
  return parse_run_config(to_toml(run), where).model;
}

}  // namespace kvsmith
