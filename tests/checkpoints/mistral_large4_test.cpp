#include "checkpoints/mistral_large4.h"

#include <algorithm>

#include <torch/types.h>

#include "checkpoints/export.h"
#include "checkpoints/hf_config.h"
#include "checkpoints/load.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "core/text.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Change = std::function<void(ModelConfig&)>;

/// Six latent layers; in pairs unless `change` says otherwise.
ModelConfig sharing(const Change& change = {}) {
  return tiny_model(4, [&](ModelConfig& model) {
    model.num_hidden_layers = 6;
    model.layer_types = {"latent"};
    model.kv_source_layers = {0, 0, 2, 2, 4, 4};
    model.rms_norm_eps = 1e-6;
    model.latent = {.kv_lora_rank = 12,
                    .q_lora_rank = 0,
                    .qk_rope_head_dim = 6,
                    .qk_nope_head_dim = 10,
                    .v_head_dim = 4};
    if (change) change(model);
  });
}

LoadedModel random_model(const ModelConfig& config, at::ScalarType type = at::kFloat) {
  LoadedModel out;
  out.model = Decoder(config);
  initialize(*out.model, 3);
  out.model->to(type);
  out.model->set_compute_type(type);
  out.model->eval();
  return out;
}

TEST(MistralLarge4, ReadsBackAsItWasWritten) {
  struct Case {
    Change change;
    double rounding = 0;
    at::ScalarType type = at::kFloat;
  };
  const auto no_norm = [](auto& m) {
    m.latent.latent_norm = false;
    m.rms_norm_eps = 1e-5;
  };
  const Case cases[] = {
      {[](auto& m) { m.tie_word_embeddings = false; }},
      {[](auto& m) { m.rope_theta = 5e4; }, 0, at::kBFloat16},
      {[](auto& m) { m.kv_source_layers = {0, 1, 1, 3, 3, 3}; }},
      {[](auto& m) { m.rms_norm_eps = 1e-5; }, 1e-5},  // weights are rounded
      {no_norm},
      {no_norm, 0, at::kBFloat16},
  };
  const TemporaryDirectory directory;
  int n = 0;
  for (const Case& c : cases) {
    SCOPED_TRACE(n);
    const LoadedModel source = random_model(sharing(c.change), c.type);
    const auto folder = directory / std::to_string(n++);
    EXPECT_LE(export_hf(source, folder, false).max_logit_difference, c.rounding);
    const LoadedModel back = load_model(folder, {.type = c.type});
    EXPECT_EQ(back.model->config(), source.model->config());
    EXPECT_LE(logit_difference(source.model, back.model), c.rounding);
  }
}

TEST(MistralLarge4, FolderHasWhatTheClassWants) {
  const TemporaryDirectory directory;
  const LoadedModel source = random_model(sharing());
  export_hf(source, directory / "out", false);
  const Json json = Json::parse(read_file(directory / "out" / "config.json"));
  EXPECT_EQ(json["architectures"][0], "MistralLarge4ForConditionalGeneration");
  EXPECT_EQ(json["vision_config"]["num_hidden_layers"], 0);
  const Json& text = json["text_config"];
  EXPECT_EQ(text["model_type"], "mistral_large4_text");
  EXPECT_EQ(text["kv_source_layers"], Json({0, 0, 2, 2, 4, 4}));
  EXPECT_EQ(text["indexer_types"][0], "full");
  EXPECT_EQ(text["indexer_types"][1], "shared");
  EXPECT_EQ(text["rope_parameters"]["rope_theta"], 1e4);

  const SafetensorsFile file(directory / "out" / "model.safetensors");
  for (int i = 0; i < 6; ++i) {
    const auto layer = cat("model.language_model.layers.", i, ".");
    EXPECT_NE(file.find(layer + "mlp.up_proj.weight"), nullptr);
    EXPECT_NE(file.find(layer + "self_attn.kv_b_proj.weight"), nullptr);
    EXPECT_NE(file.find(layer + "self_attn.softmax_scaling.bias"), nullptr);
    for (const char* of_owners : {"kv_a_proj_with_mqa", "kv_a_layernorm"}) {
      EXPECT_EQ(file.find(cat(layer, "self_attn.", of_owners, ".weight")) != nullptr, i % 2 == 0);
    }
    EXPECT_EQ(file.find(layer + "self_attn.indexer.wk.weight") != nullptr, i == 0);
  }
}

TEST(MistralLarge4, RefusesModelsThatItCannotHold) {
  const std::pair<Change, std::string> cases[] = {
      {[](auto& m) { m.kv_source_layers = {0, 1, 0, 1, 4, 5}; },
       "layer 2 reads the latents of layer 0, and those of layer 1 have readers too"},
      {[](auto& m) { m.kv_source_layers = {0, 0, 1, 3, 4, 5}; },
       "layer 2 reads the latents of layer 1, which itself reads layer 0"},
      {[](auto& m) { m.kv_source_layers = {0, 4, 4, 4, 4, 5}; },
       "layer 1 reads the latents of layer 4, which is not below it"},
      {[](auto& m) { m.latent.q_lora_rank = 8; }, "queries are compressed"},
      {[](auto& m) { m.rms_norm_eps = 0; }, "rms_norm_eps is below 1e-09"},
  };
  for (const auto& [change, part] : cases) {
    expect_error([&] { to_hf_config(sharing(change), {1, {2}}, "float32"); }, ExitCode::kConfig,
                 part);
  }
  const TemporaryDirectory directory;
  const auto coarse = random_model(sharing([](auto& m) { m.rms_norm_eps = 1e-5; }), at::kBFloat16);
  expect_error([&] { export_hf(coarse, directory / "out", false); }, ExitCode::kConfig,
               "too coarse in bf16");
  EXPECT_FALSE(fs::exists(directory / "out"));
}

TEST(MistralLarge4, RefusesFoldersThatAreMoreThanOurs) {
  const Json good = to_hf_config(sharing(), {1, {2}}, "float32");
  EXPECT_EQ(from_hf_config(good, "config.json"), sharing());
  const std::pair<Json, std::string> cases[] = {
      {{{"kv_source_layers", {0, 1, 0, 1, 4, 5}}}, "layer 2 reads the latents of layer 0"},
      {{{"kv_source_layers", {0, -1, 0, 1, 4, 5}}}, "layer 1 reads the latents of layer -1"},
      {{{"no_rope_layers", {1, 1, 1, 0, 1, 1}}}, "no_rope_layers is [1,1,1,0,1,1]"},
      {{{"first_k_dense_replace", 1}}, "first_k_dense_replace is 1"},
      {{{"index_topk", 2048}}, "index_topk is 2048"},
      {{{"final_logit_softcapping", 30.0}}, "final_logit_softcapping is 30"},
      {{{"rope_parameters", {{"rope_type", "yarn"}}}}, "rope_type \"yarn\""},
  };
  for (const auto& [change, part] : cases) {
    Json bad = good;
    bad["text_config"].update(change);
    expect_error([&] { from_hf_config(bad, "config.json"); }, ExitCode::kConfig, part);
  }
  for (const char* key :
       {"rope_parameters", "kv_source_layers", "no_rope_layers", "rms_norm_eps"}) {
    Json bad = good;
    bad["text_config"].erase(key);
    expect_error([&] { from_hf_config(bad, "config.json"); }, ExitCode::kConfig,
                 cat("key \"", key, "\" is missing"));
  }
  Json sees = good;
  sees["vision_config"]["num_hidden_layers"] = 2;
  expect_error([&] { from_hf_config(sees, "config.json"); }, ExitCode::kConfig, "vision_layers");
}

TEST(MistralLarge4, RefusesTensorsThatAreNotNeutral) {
  const TemporaryDirectory directory;
  export_hf(random_model(sharing()), directory / "out", false);
  const auto path = directory / "out" / "model.safetensors";
  for (const char* name : {"model.language_model.rotary_emb.alpha",
                           "model.language_model.layers.3.self_attn.softmax_scaling.bias"}) {
    NamedTensors weights;
    {
      const SafetensorsFile file(path);
      for (const auto& [stored, info] : file.tensors())
        weights.emplace_back(stored, load_tensor(file, info));
    }
    const auto good = weights;
    for (auto& [stored, tensor] : weights)
      if (stored == name) tensor = tensor + 0.5;
    save_tensors(path, weights, {{"format", "pt"}});
    expect_error([&] { load_model(directory / "out"); }, ExitCode::kConfig, name);
    save_tensors(path, good, {{"format", "pt"}});
  }
}

}  // namespace
}  // namespace kvsmith
