#include "checkpoints/hf_config.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "checkpoints/hf_family.h"
#include "checkpoints/hf_gemma.h"
#include "checkpoints/hf_keys.h"
#include "checkpoints/mistral_large4.h"
#include "configs/kv_patterns.h"
#include "configs/run_config.h"
#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

/// transformers 5 nests the base under rope_parameters, earlier versions have rope_theta.
double rope_theta(const Json& json, const std::string& where) {
  const Json rope = json.value("rope_parameters", Json());
  constexpr double kUsual = 10000;
  if (rope.is_object()) return unscaled_theta(rope, kUsual, where);
  expect_no_scaling(json, where);
  return json.value("rope_theta", kUsual);
}

/// Windows and rotary bases of the layers.
void read_layers(const Json& json,
                 const std::string& type,
                 ModelConfig& c,
                 const std::string& where) {
  const bool on = is_set(json, "sliding_window") &&
                  json.value("use_sliding_window", type == "mistral" || type == "granite_swa");
  if (on) {
    c.sliding_window = json.at("sliding_window").get<int64_t>();
    if (is_set(json, "layer_types")) {
      c.layer_types = read_layer_types(json, c.num_hidden_layers, where);
    } else if (type == "mistral") {
      c.layer_types = {"sliding"};
    } else {
      throw Error(ExitCode::kConfig,
                  {"sliding_window without layer_types", where, "write layer_types out"});
    }
  }
  if (type == "granite_swa") {
    c.attention_sink_logits = true;
    if (is_set(json, "layer_rope_theta"))
      c.layer_rope_theta = json.at("layer_rope_theta").get<std::vector<double>>();
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

/// Sizes of latent layers.
void read_latents(const Json& json,
                  const std::string& type,
                  ModelConfig& c,
                  const std::string& where) {
  const auto refuse = [&](const std::string& what, const std::string& advice) {
    throw Error(ExitCode::kConfig, {what, where, advice});
  };
  if (c.attention_bias) refuse("attention_bias is not supported in latent layers", "");
  constexpr int64_t kUsualDense = 3;  // of DeepseekV3Config
  if (type == "deepseek_v3" &&
      json.value("first_k_dense_replace", kUsualDense) < c.num_hidden_layers) {
    refuse(cat("layers from ", json.value("first_k_dense_replace", kUsualDense),
               " on are mixtures of experts, which are not supported"),
           "only dense models are: first_k_dense_replace = num_hidden_layers");
  }
  const bool is_mistral = type == mistral_large4::kModelType;  // never compresses queries
  // the other classes would take a missing rank for 1536
  if (!is_mistral && !json.contains("q_lora_rank"))
    refuse("key \"q_lora_rank\" is missing", "null: none");
  const Json query_rank = is_mistral ? Json() : json["q_lora_rank"];
  c.layer_types = {"latent"};
  c.latent = {.kv_lora_rank = required<int64_t>(json, "kv_lora_rank", where),
              .q_lora_rank = query_rank.is_null() ? 0 : query_rank.get<int64_t>(),
              .qk_rope_head_dim = required<int64_t>(json, "qk_rope_head_dim", where),
              .qk_nope_head_dim = required<int64_t>(json, "qk_nope_head_dim", where),
              .v_head_dim = required<int64_t>(json, "v_head_dim", where)};
  for (const auto& [key, value] : {std::pair("kv_lora_rank", c.latent.kv_lora_rank),
                                   std::pair("qk_rope_head_dim", c.latent.qk_rope_head_dim),
                                   std::pair("qk_nope_head_dim", c.latent.qk_nope_head_dim),
                                   std::pair("v_head_dim", c.latent.v_head_dim)}) {
    if (value < 1) refuse(cat(key, " is ", value), "expected at least 1");
  }
  c.num_key_value_heads = c.num_attention_heads;
  // head_dim is no size of latent layers, but has to be possible
  c.head_dim = c.hidden_size / std::max<int64_t>(1, c.num_attention_heads);
  if (c.head_dim == 0 || c.head_dim % 2 != 0) c.head_dim = c.latent.qk_rope_head_dim;
  if (is_mistral) mistral_large4::read_layers(json, c, where);
}

/// Layers of the LCKV authors' class. The window needs no conversion: with and without the
/// diagonal, their eager and SDPA masks hide keys that are sliding_window or more tokens back, as
/// ours do, so a layer that reads ahead sees sliding_window - 1 keys. Only their flash-attention
/// path counts otherwise there: it shortens keys and window by one each, and may show one key more.
void read_lckv(const Json& json, ModelConfig& c, const std::string& where) {
  if (json.value("force_nodiag", false)) {
    throw Error(ExitCode::kConfig,
                {"force_nodiag is true: no token sees itself in any layer", where,
                 "only layers that read a layer above them can be without the diagonal here"});
  }
  // use_sequential chooses how to compute the same, and is not needed
  const auto text = required<std::string>(json, "layer_types", where);
  std::vector<KeyProblem> problems;
  const LayerLists lists = parse_lckv_layers(text, problems);
  if (lists.types.empty() && problems.empty()) problems.push_back({"layer_types", "is empty"});
  if (!problems.empty()) {
    throw Error(ExitCode::kConfig, {problems[0].key + ": " + problems[0].text, where,
                                    "expected layer numbers such as \"0_4s_4_4_4_5\""});
  }
  c.layer_types = lists.types;
  c.kv_source_layers = lists.k_sources;
  constexpr int64_t kTheirWindow = 4096;
  if (std::ranges::find(c.layer_types, "sliding") != c.layer_types.end())
    c.sliding_window = json.value("sliding_window", kTheirWindow);
  c.forward_passes = json.value("forward_passes", c.forward_passes);
  c.backward_passes = json.value("backward_passes", c.backward_passes);
}

bool is_latent_type(const std::string& type) {
  return type == "youtu" || type == "deepseek_v3" || type == mistral_large4::kModelType;
}

/// What every layout has.
Json common_config(const ModelConfig& c,
                   const char* architecture,
                   const char* model_type,
                   const ExportIds& ids,
                   const std::string& dtype) {
  Json json = {{"architectures", {architecture}},
               {"model_type", model_type},
               {"vocab_size", c.vocab_size},
               {"hidden_size", c.hidden_size},
               {"intermediate_size", c.intermediate_size},
               {"num_hidden_layers", c.num_hidden_layers},
               {"num_attention_heads", c.num_attention_heads},
               {"num_key_value_heads", c.layer_num_key_value_heads[0]},
               {"head_dim", c.head_dim},
               {"hidden_act", c.hidden_act},
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
  // left out, they would be those of the model that the class was made for
  json["bos_token_id"] = ids.bos >= 0 ? Json(ids.bos) : Json();
  json["eos_token_id"] = ids.eos_json();
  if (std::ranges::find(c.layer_types, "sliding") != c.layer_types.end())
    json["sliding_window"] = c.sliding_window;
  return json;
}

}  // namespace

Json ExportIds::eos_json() const {
  if (eos.empty()) return {};
  return eos.size() == 1 ? Json(eos[0]) : Json(eos);
}

Json to_hf_config(const ModelConfig& c, const ExportIds& ids, const std::string& dtype) {
  const HfFamily family = hf_family_of(c);
  Json json = common_config(c, family.architecture, family.model_type, ids, dtype);
  if (json.contains("sliding_window")) json["use_sliding_window"] = true;
  // left out, it would be the class's own, 4096
  if (family.model_type == std::string("mistral") && !json.contains("sliding_window"))
    json["sliding_window"] = Json();
  if (is_gemma(family.model_type)) write_gemma(c, json);
  if (family.has_layers) json["layer_types"] = to_layer_types(c.layer_types);
  if (family.has_theta) {
    json["layer_rope_theta"] = c.layer_rope_theta;
    json["attention_multiplier"] = 1 / std::sqrt(static_cast<double>(c.head_dim));
    for (const char* key : {"embedding_multiplier", "residual_multiplier", "logits_scaling"})
      json[key] = 1.0;
  }
  if (family.is_latent) {
    json.erase("head_dim");  // the class's own is qk_rope_head_dim, and a key would replace it
    json["num_key_value_heads"] = c.num_attention_heads;
    json["kv_lora_rank"] = c.latent.kv_lora_rank;
    json["q_lora_rank"] = c.latent.q_lora_rank > 0 ? Json(c.latent.q_lora_rank) : Json();
    json["qk_rope_head_dim"] = c.latent.qk_rope_head_dim;
    json["qk_nope_head_dim"] = c.latent.qk_nope_head_dim;
    json["v_head_dim"] = c.latent.v_head_dim;
    json["rope_interleave"] = false;
  }
  return family.model_type == std::string(mistral_large4::kModelType)
             ? mistral_large4::wrapped(std::move(json), c)
             : json;
}

Json to_lckv_config(const ModelConfig& c, const ExportIds& ids, const std::string& dtype) {
  const std::string layers = lckv_layer_types(c);
  Json json = common_config(c, "LCKVLlamaForCausalLM", "lckv-llama", ids, dtype);
  json["layer_types"] = layers;
  json["forward_passes"] = c.forward_passes;
  json["backward_passes"] = c.backward_passes;
  json["use_sequential"] = false;
  json["force_nodiag"] = false;
  return json;
}

ModelConfig from_hf_config(const Json& given, const std::string& where) {
  const Json json = without_nulls(mistral_large4::unwrapped(given));
  const auto type = required<std::string>(json, "model_type", where);
  const std::vector<std::string> supported = {
      "deepseek_v3", "gemma3_text",    "gemma4_text", "granite_swa", "lckv-llama", "llama",
      "mistral",     "mistral_large4", "qwen2",       "qwen3",       "youtu"};
  if (std::ranges::find(supported, type) == supported.end()) {
    throw Error(ExitCode::kConfig, {"model_type \"" + type + "\" is not supported", where,
                                    "supported: " + join(supported)});
  }
  expect_types(json, where);
  const bool gemma = is_gemma(type);
  const std::string gelu = "gelu_pytorch_tanh";
  const char* act_key = gemma ? "hidden_activation" : "hidden_act";
  const auto act = json.value(act_key, gemma ? gelu : "silu");
  if (act != "silu" && act != gelu) {
    throw Error(ExitCode::kConfig, {cat(act_key, " \"", act, "\" is not supported"), where,
                                    "only silu and " + gelu + " are"});
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
  c.head_dim = json.value("head_dim", int64_t{0});
  c.max_position_embeddings = json.value("max_position_embeddings", int64_t{2048});
  c.rms_norm_eps = json.value("rms_norm_eps", 1e-6);
  c.initializer_range = json.value("initializer_range", 0.02);
  c.hidden_act = act;
  if (!gemma) c.rope_theta = rope_theta(json, where);
  c.tie_word_embeddings = json.value("tie_word_embeddings", gemma || type == "youtu");
  c.qk_norm = type == "qwen3";
  c.attention_bias = type == "qwen2" || json.value("attention_bias", false);
  if (c.head_dim == 0) c.head_dim = c.hidden_size / std::max<int64_t>(1, c.num_attention_heads);
  if (is_latent_type(type)) {
    read_latents(json, type, c, where);
  } else if (gemma) {
    read_gemma(json, c, where);
  } else if (type == "lckv-llama") {
    read_lckv(json, c, where);
  } else {
    read_layers(json, type, c, where);
  }
  if (c.max_position_embeddings < 2) {
    throw Error(ExitCode::kConfig, {cat("max_position_embeddings is ", c.max_position_embeddings),
                                    where, "expected at least 2"});
  }
  // the same ranges and relations as for a file of ours
  return parse_run_config(to_toml(run_config_of(c)), where).model;
}

}  // namespace kvsmith
