#include "checkpoints/hf_config.h"

#include <algorithm>

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

}  // namespace

Json to_hf_config(const ModelConfig& c, int64_t bos_id, int64_t eos_id, const std::string& dtype) {
  Json json = {{"architectures", {c.qk_norm ? "Qwen3ForCausalLM" : "LlamaForCausalLM"}},
               {"model_type", c.qk_norm ? "qwen3" : "llama"},
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
               {"rope_theta", c.rope_theta},
               {"tie_word_embeddings", c.tie_word_embeddings},
               {"attention_bias", c.attention_bias},
               {"attention_dropout", 0.0},
               {"mlp_bias", false},
               {"use_cache", true},
               {"torch_dtype", dtype}};
  if (bos_id >= 0) json["bos_token_id"] = bos_id;
  if (eos_id >= 0) json["eos_token_id"] = eos_id;
  return json;
}

ModelConfig from_hf_config(const Json& json, const std::string& where) {
  const auto type = required<std::string>(json, "model_type", where);
  if (type != "llama" && type != "qwen2" && type != "qwen3" && type != "mistral") {
    throw Error(ExitCode::kConfig, {"model_type \"" + type + "\" is not supported", where,
                                    "supported: llama, mistral, qwen2, qwen3"});
  }
  if (const auto act = json.value("hidden_act", "silu"); act != "silu") {
    throw Error(ExitCode::kConfig,
                {"hidden_act \"" + act + "\" is not supported", where, "only silu is"});
  }
  if (json.value("mlp_bias", false)) {
    throw Error(ExitCode::kConfig,
                {"biases in the feed-forward layer are not supported", where, ""});
  }
  if (const auto window = json.find("sliding_window");
      window != json.end() && !window->is_null() &&
      json.value("use_sliding_window", type == "mistral")) {
    throw Error(ExitCode::kConfig, {"sliding_window is not supported", where, ""});
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
