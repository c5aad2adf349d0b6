#include "checkpoints/hf_keys.h"

#include "core/json_node.h"

namespace kvsmith {

using Json = nlohmann::ordered_json;

namespace {

struct Type {
  const char* name;
  bool (Json::*holds)() const noexcept;
  std::vector<const char*> keys;
};

const std::vector<Type>& types() {
  static const std::vector<Type> all = {
      {"a whole number",
       &Json::is_number_integer,
       {"vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "sliding_window",
        "sliding_window_pattern",
        "kv_lora_rank",
        "q_lora_rank",
        "qk_rope_head_dim",
        "qk_nope_head_dim",
        "v_head_dim",
        "first_k_dense_replace",
        "num_kv_shared_layers",
        "num_global_key_value_heads",
        "global_head_dim",
        "forward_passes",
        "backward_passes"}},
      {"a number",
       &Json::is_number,
       {"rms_norm_eps", "initializer_range", "rope_theta", "rope_local_base_freq",
        "query_pre_attn_scalar", "attention_multiplier", "residual_multiplier",
        "embedding_multiplier", "logits_scaling"}},
      {"true or false",
       &Json::is_boolean,
       {"tie_word_embeddings", "attention_bias", "mlp_bias", "use_sliding_window",
        "rope_interleave", "attention_k_eq_v", "use_double_wide_mlp", "enable_moe_block",
        "force_nodiag"}},
      {"a text", &Json::is_string, {"hidden_act", "hidden_activation"}},
      {"an object", &Json::is_object, {"rope_parameters"}},
      {"a list", &Json::is_array, {"layer_rope_theta", "kv_source_layers", "no_rope_layers"}},
  };
  return all;
}

}  // namespace

Json without_nulls(const Json& json) {
  Json out = Json::object();
  for (const auto& [key, value] : json.items())
    if (!value.is_null() || key == "q_lora_rank") out[key] = value;
  return out;
}

void expect_types(const Json& json, const std::string& where) {
  for (const Type& type : types()) {
    for (const char* key : type.keys) {
      if (!is_set(json, key) || (json.at(key).*type.holds)()) continue;
      throw Error(ExitCode::kBadData, {cat(key, " is ", shortened(json.at(key).dump())), where,
                                       cat("expected ", type.name)});
    }
  }
}

bool is_set(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && !found->is_null();
}

double unscaled_theta(const Json& rope, double usual, const std::string& where) {
  const Json type = rope.value("rope_type", Json("default"));
  if (type != "default") {
    throw Error(ExitCode::kConfig, {cat("rope_type ", type.dump(), " is not supported"), where,
                                    "only unscaled rotary embeddings are"});
  }
  return rope.value("rope_theta", usual);
}

void expect_no_scaling(const Json& json, const std::string& where) {
  if (!is_set(json, "rope_scaling")) return;
  throw Error(ExitCode::kConfig,
              {"rope_scaling is not supported", where, "only unscaled rotary embeddings are"});
}

std::vector<std::string> read_layer_types(const Json& json,
                                          int64_t layers,
                                          const std::string& where) {
  std::vector<std::string> out;
  for (const auto& item : json.at("layer_types")) {
    const auto type = item.get<std::string>();
    if (type != "full_attention" && type != "sliding_attention") {
      throw Error(ExitCode::kConfig, {"layer type \"" + type + "\" is not supported", where,
                                      "supported: full_attention, sliding_attention"});
    }
    out.emplace_back(type == "full_attention" ? "full" : "sliding");
  }
  if (std::ssize(out) != layers) {
    throw Error(ExitCode::kConfig,
                {cat("layer_types has ", out.size(), " entries for ", layers, " layers"), where,
                 "expected one for each"});
  }
  return out;
}

Json to_layer_types(const std::vector<std::string>& types) {
  Json out = Json::array();
  for (const auto& type : types) out.push_back(type + "_attention");
  return out;
}

}  // namespace kvsmith
