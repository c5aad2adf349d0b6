#include "checkpoints/gguf_config.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include "checkpoints/hf_family.h"
#include "configs/run_config.h"
#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

constexpr std::array<const char*, 4> kArchitectures = {"llama", "deci", "qwen2", "qwen3"};

/// Keys, after "<architecture>.", that are read below or say nothing about the computation.
constexpr auto kKnown = std::to_array<std::string_view>(
    {"context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size",
     "attention.head_count", "attention.head_count_kv", "attention.key_length",
     "attention.value_length", "attention.layer_norm_rms_epsilon", "rope.freq_base",
     "rope.dimension_count", "rope.scaling.original_context_length", "tensor_data_layout"});

/// Tensor names, ours and those of GGUF; of a layer, what follows "model.layers.0." and "blk.0.".
constexpr std::pair<std::string_view, std::string_view> kOuterNames[] = {
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
};
constexpr std::pair<std::string_view, std::string_view> kLayerNames[] = {
    {"input_layernorm.weight", "attn_norm.weight"},
    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.q_proj.bias", "attn_q.bias"},
    {"self_attn.k_proj.weight", "attn_k.weight"},
    {"self_attn.k_proj.bias", "attn_k.bias"},
    {"self_attn.v_proj.weight", "attn_v.weight"},
    {"self_attn.v_proj.bias", "attn_v.bias"},
    {"self_attn.o_proj.weight", "attn_output.weight"},
    {"self_attn.q_norm.weight", "attn_q_norm.weight"},
    {"self_attn.k_norm.weight", "attn_k_norm.weight"},
    {"post_attention_layernorm.weight", "ffn_norm.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},
    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
};
constexpr std::string_view kLayers = "model.layers.", kBlocks = "blk.";

/// Splits "<prefix>12.<rest>" into "12" and "<rest>"; both empty when it is something else.
std::pair<std::string_view, std::string_view> layer_and_rest(std::string_view name,
                                                             std::string_view prefix) {
  if (!name.starts_with(prefix)) return {};
  name.remove_prefix(prefix.size());
  const size_t dot = name.find('.');
  if (dot == 0 || dot == name.npos || name.find_first_not_of("0123456789") != dot) return {};
  return {name.substr(0, dot), name.substr(dot + 1)};
}

/// Reads the keys of one architecture.
class Hyperparameters {
 public:
  Hyperparameters(const GgufFile& file, std::string architecture)
      : file_(file), architecture_(std::move(architecture)) {}

  std::string key(std::string_view suffix) const { return cat(architecture_, ".", suffix); }
  bool has(std::string_view suffix) const { return file_.has(key(suffix)); }
  int64_t integer(std::string_view suffix) const { return file_.integer(key(suffix)); }
  int64_t integer(std::string_view suffix, int64_t otherwise) const {
    return has(suffix) ? integer(suffix) : otherwise;
  }

  /// One number for each layer, from one that stands for all or from an array.
  std::vector<int64_t> per_layer(std::string_view suffix, int64_t layers) const {
    if (!file_.is_array(key(suffix)))
      return std::vector<int64_t>(static_cast<size_t>(layers), integer(suffix));
    const auto list = file_.integers(key(suffix));
    if (std::ssize(list) != layers)
      refuse(ExitCode::kBadData, suffix,
             cat("has ", list.size(), " elements for ", layers, " layers"),
             "expected one for each");
    return list;
  }
  /// The number that all layers have.
  int64_t uniform(std::string_view suffix, int64_t layers) const {
    const auto list = per_layer(suffix, layers);
    if (std::ranges::count(list, list[0]) != std::ssize(list))
      refuse(ExitCode::kConfig, suffix, "differs between layers",
             "only equal layers are supported");
    return list[0];
  }

  [[noreturn]] void refuse(ExitCode code,
                           std::string_view suffix,
                           const std::string& what,
                           const std::string& remedy) const {
    throw Error(code, {.what = cat("metadata ", in_quotes(key(suffix)), " ", what),
                       .where = file_.path().string(),
                       .remedy = remedy});
  }

  void expect_nothing_unknown() const {
    for (const auto& key : file_.keys()) {
      if (!key.starts_with(architecture_ + ".")) continue;
      const std::string_view suffix = std::string_view(key).substr(architecture_.size() + 1);
      if (std::ranges::find(kKnown, suffix) == kKnown.end() && !is_neutral(suffix))
        refuse(ExitCode::kConfig, suffix, "is not supported",
               "it may change what the model computes; convert a plain model");
    }
  }

 private:
  /// A key with the value that stands for "not used".
  bool is_neutral(std::string_view suffix) const {
    const std::string full = key(suffix);
    if (suffix == "rope.scaling.type") return file_.text(full) == "none";
    if (suffix == "rope.scaling.factor" || suffix == "rope.scale_linear")
      return file_.number(full) == 1;
    if (suffix == "attention.causal") return file_.flag(full);
    if (suffix == "expert_count" || suffix == "expert_used_count" ||
        suffix == "attention.sliding_window" || suffix == "pooling_type") {
      return file_.integer(full) == 0;
    }
    return false;
  }

  const GgufFile& file_;
  std::string architecture_;
};

[[noreturn]] void refuse(const GgufFile& file, const std::string& what, const std::string& remedy) {
  throw Error(ExitCode::kConfig, {.what = what, .where = file.path().string(), .remedy = remedy});
}

std::string architecture_of(const GgufFile& file) {
  const std::string architecture(file.text("general.architecture"));
  if (std::ranges::find(kArchitectures, architecture) == kArchitectures.end()) {
    refuse(file, cat("architecture ", in_quotes(architecture), " is not supported"),
           "supported: " + join({kArchitectures.begin(), kArchitectures.end()}));
  }
  if (file.has("general.type") && file.text("general.type") != "model")
    refuse(file, cat("general.type is ", in_quotes(file.text("general.type"))), "expected model");
  if (file.has("split.count") && file.integer("split.count") > 1)
    refuse(file, "is one of several shards", "join them with llama-gguf-split --merge");
  return architecture;
}

/// Every tensor is one that the model has; what is missing is found when it is loaded.
void expect_known_tensors(const GgufFile& file) {
  for (const auto& [name, tensor] : file.tensors()) {
    if (!name_of_gguf(name).empty()) continue;
    const bool scales = name.starts_with("rope_");
    const bool experts = name.find("_exps") != name.npos || name.find("gate_inp") != name.npos;
    refuse(file, cat("tensor ", in_quotes(name), " is not supported"),
           scales    ? "only unscaled rotary embeddings are"
           : experts ? "only dense models are, no mixtures of experts"
                     : "it is no part of llama, deci, qwen2 or qwen3 as known here");
  }
}

int64_t rows_of(const GgufFile& file, const std::string& name) {
  const GgufTensor* const tensor = file.find(name);
  if (!tensor)
    refuse(file, cat("tensor ", in_quotes(name), " is missing"), "is this a whole model?");
  return tensor->shape[0];
}

}  // namespace

std::string gguf_name_of(const std::string& name) {
  for (const auto& [ours, theirs] : kOuterNames)
    if (name == ours) return std::string(theirs);
  const auto [layer, rest] = layer_and_rest(name, kLayers);
  for (const auto& [ours, theirs] : kLayerNames)
    if (rest == ours) return cat(kBlocks, layer, ".", theirs);
  return "";
}

std::string name_of_gguf(const std::string& gguf_name) {
  for (const auto& [ours, theirs] : kOuterNames)
    if (gguf_name == theirs) return std::string(ours);
  const auto [layer, rest] = layer_and_rest(gguf_name, kBlocks);
  for (const auto& [ours, theirs] : kLayerNames)
    if (rest == theirs) return cat(kLayers, layer, ".", ours);
  return "";
}

bool has_interleaved_heads(std::string_view gguf_architecture) {
  return gguf_architecture == "llama" || gguf_architecture == "deci";
}

ModelConfig from_gguf_config(const GgufFile& file) {
  const std::string architecture = architecture_of(file);
  const Hyperparameters keys(file, architecture);
  keys.expect_nothing_unknown();
  expect_known_tensors(file);

  ModelConfig c;
  c.vocab_size = rows_of(file, "token_embd.weight");
  c.hidden_size = keys.integer("embedding_length");
  c.num_hidden_layers = keys.integer("block_count");
  constexpr int64_t kMostLayers = 4096;
  if (c.num_hidden_layers < 1 || c.num_hidden_layers > kMostLayers)
    keys.refuse(ExitCode::kBadData, "block_count", cat("is ", c.num_hidden_layers),
                "expected 1 to 4096");
  const int64_t layers = c.num_hidden_layers;
  c.intermediate_size = keys.uniform("feed_forward_length", layers);
  c.num_attention_heads = keys.uniform("attention.head_count", layers);
  if (c.num_attention_heads < 1)
    keys.refuse(ExitCode::kBadData, "attention.head_count", cat("is ", c.num_attention_heads),
                "expected at least 1");
  c.num_key_value_heads = c.num_attention_heads;
  if (keys.has("attention.head_count_kv")) {
    // llama.cpp takes other architectures' heads to be those of the first layer
    if (architecture == "deci")
      c.layer_num_key_value_heads = keys.per_layer("attention.head_count_kv", layers);
    c.num_key_value_heads = architecture == "deci"
                                ? c.layer_num_key_value_heads[0]
                                : keys.uniform("attention.head_count_kv", layers);
  }
  c.head_dim = keys.integer("attention.key_length", c.hidden_size / c.num_attention_heads);
  for (const char* same : {"attention.value_length", "rope.dimension_count"}) {
    if (keys.integer(same, c.head_dim) != c.head_dim)
      keys.refuse(ExitCode::kConfig, same,
                  cat("is ", keys.integer(same), ", and heads are ", c.head_dim, " wide"),
                  "only equal widths are supported");
  }
  c.max_position_embeddings = keys.integer("context_length");
  c.rms_norm_eps = file.number(keys.key("attention.layer_norm_rms_epsilon"));
  if (keys.has("rope.freq_base")) c.rope_theta = file.number(keys.key("rope.freq_base"));
  c.tie_word_embeddings = !file.find("output.weight");
  c.attention_bias = file.find("blk.0.attn_q.bias") != nullptr;
  c.qk_norm = file.find("blk.0.attn_q_norm.weight") != nullptr;
  if (c.qk_norm != (architecture == "qwen3") || (c.qk_norm && c.attention_bias)) {
    refuse(file,
           cat("an architecture ", architecture, c.qk_norm ? " with" : " without",
               " normed queries and keys", c.attention_bias ? ", and with biases" : ""),
           "expected them in qwen3, and biases in the other architectures only");
  }
  // the same ranges and relations as for a file of ours
  return parse_run_config(to_toml(run_config_of(c)), file.path().string()).model;
}

GgufMetadata to_gguf_config(const ModelConfig& c, const std::string& name) {
  const std::string architecture(gguf_architecture_of(c));
  GgufMetadata out;
  out.add_text("general.architecture", architecture);
  out.add_text("general.type", "model");
  out.add_text("general.name", name);
  const auto add = [&](const char* suffix, int64_t value) {
    out.add_uint32(cat(architecture, ".", suffix), static_cast<uint32_t>(value));
  };
  add("vocab_size", c.vocab_size);
  add("context_length", c.max_position_embeddings);
  add("embedding_length", c.hidden_size);
  add("block_count", c.num_hidden_layers);
  add("feed_forward_length", c.intermediate_size);
  add("attention.head_count", c.num_attention_heads);
  if (architecture == "deci") {
    const auto& heads = c.layer_num_key_value_heads;
    out.add_int32s(architecture + ".attention.head_count_kv", {heads.begin(), heads.end()});
  } else {
    add("attention.head_count_kv", c.layer_num_key_value_heads[0]);
  }
  add("attention.key_length", c.head_dim);
  add("attention.value_length", c.head_dim);
  add("rope.dimension_count", c.head_dim);
  out.add_float32(architecture + ".rope.freq_base", static_cast<float>(c.layer_rope_theta[0]));
  out.add_float32(architecture + ".attention.layer_norm_rms_epsilon",
                  static_cast<float>(c.rms_norm_eps));
  return out;
}

ModelConfig rounded_for_gguf(ModelConfig c) {
  c.rms_norm_eps = as_stored_float32(c.rms_norm_eps);
  c.rope_theta = as_stored_float32(c.layer_rope_theta[0]);
  std::ranges::fill(c.layer_rope_theta, c.rope_theta);
  return c;
}

}  // namespace kvsmith
