#include "checkpoints/mistral_large4.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include <torch/types.h>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith::mistral_large4 {
namespace {

using Json = nlohmann::ordered_json;

/// No model is asked for as many tokens: the indexer selects all.
constexpr int64_t kAllTokens = 1 << 30;
/// tanh(x / cap) * cap is x: the division by a power of two is exact, and so is tanh so close to 0.
constexpr double kNoCap = 1 << 20;
/// Width of the vision part that is not used.
constexpr int64_t kVisionWidth = 16, kPatch = 2;

constexpr std::string_view kOurPrefix = "model.", kTheirPrefix = "model.language_model.";

[[noreturn]] void refuse(const std::string& what, const std::string& where) {
  throw Error(ExitCode::kConfig,
              {what, where, "only models that `kvsmith export` wrote as mistral_large4 are read"});
}

}  // namespace

std::string sharing_obstacle(const std::vector<int64_t>& sources) {
  int64_t remembered = -1;
  for (int64_t i = 0; i < std::ssize(sources); ++i) {
    const int64_t source = sources[static_cast<size_t>(i)];
    if (source < 0 || source > i)
      return cat("layer ", i, " reads the latents of layer ", source, ", which is not below it");
    if (source == i) {
      if (std::count(sources.begin() + i + 1, sources.end(), i) > 0) remembered = i;
      continue;
    }
    if (const int64_t further = sources[static_cast<size_t>(source)]; further != source) {
      return cat("layer ", i, " reads the latents of layer ", source, ", which itself reads layer ",
                 further);
    }
    if (source != remembered) {
      return cat("layer ", i, " reads the latents of layer ", source, ", and those of layer ",
                 remembered, " have readers too: the class remembers only the last");
    }
  }
  return "";
}

Json wrapped(Json text, const ModelConfig& c) {
  const Json head = {{"architectures", {"MistralLarge4ForConditionalGeneration"}},
                     {"model_type", kModelType},
                     {"torch_dtype", text["torch_dtype"]},
                     {"tie_word_embeddings", c.tie_word_embeddings}};
  for (const char* key : {"architectures", "rope_theta", "rope_interleave", "q_lora_rank"})
    text.erase(key);
  text["model_type"] = cat(kModelType, "_text");
  text["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", c.layer_rope_theta[0]}};
  text["kv_source_layers"] = c.k_source_layers;
  text["no_rope_layers"] = std::vector<int64_t>(static_cast<size_t>(c.num_hidden_layers), 1);
  text["first_k_dense_replace"] = c.num_hidden_layers;
  text["indexer_types"] =
      std::vector<std::string>(static_cast<size_t>(c.num_hidden_layers), "shared");
  text["indexer_types"][0] = "full";
  text["index_n_heads"] = 1;
  text["index_head_dim"] = c.latent.qk_rope_head_dim;
  text["index_topk"] = kAllTokens;
  text["final_logit_softcapping"] = kNoCap;
  Json json = head;
  json["text_config"] = std::move(text);
  json["vision_config"] = {
      {"model_type", "pixtral"}, {"hidden_size", kVisionWidth}, {"intermediate_size", kVisionWidth},
      {"num_hidden_layers", 0},  {"num_attention_heads", 1},    {"patch_size", kPatch},
      {"image_size", kPatch}};
  json["spatial_merge_size"] = 1;
  return json;
}

Json unwrapped(const Json& json) {
  if (json.value("model_type", Json()) != kModelType || !json.contains("text_config")) return json;
  Json text = json["text_config"];
  text["model_type"] = kModelType;
  text["tie_word_embeddings"] = json.value("tie_word_embeddings", false);
  text["vision_layers"] = json.value("vision_config", Json::object()).value("num_hidden_layers", 1);
  return text;
}

void read_layers(const Json& text, ModelConfig& c, const std::string& where) {
  const auto required = [&](const char* key) -> const Json& {
    if (!text.contains(key)) refuse(cat("key ", in_quotes(key), " is missing"), where);
    return text.at(key);
  };
  const auto expect = [&](bool is_neutral, const char* key) {
    if (!is_neutral) refuse(cat(key, " is ", text.at(key).dump()), where);
  };
  required("rope_parameters");  // by default it scales
  required("rms_norm_eps");
  c.kv_source_layers = required("kv_source_layers").get<std::vector<int64_t>>();
  if (const auto why = sharing_obstacle(c.kv_source_layers); !why.empty()) refuse(why, where);
  const auto rotated = required("no_rope_layers").get<std::vector<int64_t>>();
  expect(std::ranges::count(rotated, 0) == 0, "no_rope_layers");
  expect(required("first_k_dense_replace").get<int64_t>() >= c.num_hidden_layers &&
             !text.contains("mlp_layer_types"),
         "first_k_dense_replace");
  expect(required("index_topk").get<int64_t>() >= kAllTokens, "index_topk");
  expect(required("final_logit_softcapping").get<double>() >= kNoCap, "final_logit_softcapping");
  expect(required("vision_layers").get<int64_t>() == 0, "vision_layers");
}

std::string name_of(const std::string& ours) {
  if (!ours.starts_with(kOurPrefix)) return ours;
  return cat(kTheirPrefix, ours.substr(kOurPrefix.size()));
}

std::string our_name_of(const std::string& theirs) {
  if (!theirs.starts_with(kOurPrefix)) return theirs;
  const bool is_used = theirs.starts_with(kTheirPrefix) && theirs.find(".indexer.") == theirs.npos;
  return is_used ? cat(kOurPrefix, theirs.substr(kTheirPrefix.size())) : "";
}

NamedTensors neutral_tensors(const ModelConfig& c) {
  const int64_t width = c.hidden_size, key = c.latent.qk_rope_head_dim;
  NamedTensors out = {
      {"model.vision_tower.patch_conv.weight", torch::zeros({kVisionWidth, 3, kPatch, kPatch})},
      {"model.vision_tower.ln_pre.weight", torch::ones({kVisionWidth})},
      {"model.multi_modal_projector.norm.weight", torch::ones({kVisionWidth})},
      {"model.multi_modal_projector.patch_merger.merging_layer.weight",
       torch::zeros({kVisionWidth, kVisionWidth})},
      {"model.multi_modal_projector.linear_1.weight", torch::zeros({width, kVisionWidth})},
      {"model.multi_modal_projector.linear_2.weight", torch::zeros({width, width})},
      {cat(kTheirPrefix, "rotary_emb.alpha"), torch::zeros({key / 2})}};
  const auto add_scaling = [&](const std::string& owner, int64_t heads) {
    out.emplace_back(owner + "softmax_scaling.scale", torch::zeros({heads}));
    out.emplace_back(owner + "softmax_scaling.bias", torch::ones({heads}));
  };
  for (int64_t i = 0; i < c.num_hidden_layers; ++i)
    add_scaling(cat(kTheirPrefix, "layers.", i, ".self_attn."), c.num_attention_heads);
  const std::string indexer = cat(kTheirPrefix, "layers.0.self_attn.indexer.");
  add_scaling(indexer, 1);
  out.emplace_back(indexer + "wq_b.weight", torch::zeros({key, width}));
  out.emplace_back(indexer + "wk.weight", torch::zeros({key, width}));
  out.emplace_back(indexer + "weights_proj.weight", torch::zeros({1, width}));
  for (const auto& [norm, size] : {std::pair("k_norm", key), std::pair("q_input_norm", width)}) {
    out.emplace_back(cat(indexer, norm, ".weight"), torch::ones({size}));
    out.emplace_back(cat(indexer, norm, ".bias"), torch::zeros({size}));
  }
  return out;
}

}  // namespace kvsmith::mistral_large4
