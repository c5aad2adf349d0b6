#include <algorithm>

#include <torch/types.h>

#include "checkpoints/export.h"
#include "checkpoints/hf_config.h"
#include "checkpoints/load.h"
#include "checkpoints/tensor_file.h"
#include "core/files.h"
#include "core/text.h"
#include "tests/support/expect_error.h"
#include "tests/support/temporary_directory.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Change = std::function<void(ModelConfig&)>;

LoadedModel random_model(const ModelConfig& config) {
  LoadedModel out;
  out.model = Decoder(config);
  initialize(*out.model, 3);
  out.model->eval();
  out.bos_id = 1;
  out.eos_id = 2;
  return out;
}

at::Tensor logits(const LoadedModel& loaded) {
  return Decoder(loaded.model)->forward(torch::arange(23, torch::kLong).unsqueeze(0)).detach();
}

ModelConfig six_layers(const Change& change) {
  return tiny_model(2, [&](ModelConfig& model) {
    model.num_hidden_layers = 6;
    model.sliding_window = 5;
    change(model);
  });
}

ModelConfig latent_layers(const Change& change = {}) {
  return tiny_model(4, [&](ModelConfig& model) {
    model.layer_types = {"latent"};
    model.latent = {.kv_lora_rank = 12,
                    .q_lora_rank = 0,
                    .qk_rope_head_dim = 6,
                    .qk_nope_head_dim = 10,
                    .v_head_dim = 4};
    if (change) change(model);
  });
}

std::vector<std::string> names_in(const fs::path& folder) {
  const SafetensorsFile file(folder / "model.safetensors");
  std::vector<std::string> out;
  for (const auto& [name, info] : file.tensors()) out.push_back(name);
  return out;
}

TEST(HuggingFaceFolder, KeepsEveryTokenThatEndsAText) {
  const TemporaryDirectory folder;
  auto source = random_model(six_layers([](auto&) {}));
  source.end_ids = {5, 7};
  export_hf(source, folder / "out", false);
  const auto config = Json::parse(read_file(folder / "out/config.json"));
  EXPECT_EQ(config.at("eos_token_id"), Json({2, 5, 7}));
  auto generation = Json::parse(read_file(folder / "out/generation_config.json"));
  EXPECT_EQ(generation.at("eos_token_id"), Json({2, 5, 7}));
  // Llama 3 lists the end of a turn there alone
  generation["eos_token_id"] = {2, 5, 7, 9};
  write_file(folder / "out/generation_config.json", generation.dump());
  const auto back = load_model(folder / "out", {});
  EXPECT_EQ(back.eos_id, 2);
  EXPECT_EQ(back.end_ids, (std::vector<int32_t>{5, 7, 9}));
}

TEST(LckvLayout, ReadsBackEqualAndKeepsTheConfiguration) {
  struct Case {
    Change change;
    const char* layers;
    std::vector<int> with_keys;
  };
  const std::vector<Case> cases = {
      {[](auto& m) {
         m.layer_types = {"0_4s_4_4_4_5"};
         m.forward_passes = 3;
       },
       "0_4s_4_4_4_5",
       {0, 4, 5}},
      {[](auto& m) { m.pattern = "lckv-sandwich-middle"; }, "0_2_2_2_2_5", {0, 2, 5}},
      {[](auto& m) { m.pattern = "cla-2"; }, "0_0_2_2_4_4", {0, 2, 4}},
      {[](auto& m) { m.pattern = "yoco"; }, "0s_1s_2s_3_3_3", {0, 1, 2, 3}},
      {[](auto& m) {
         m.attention_bias = true;
         m.tie_word_embeddings = false;
         m.rope_theta = 5e4;
       },
       "0_1_2_3_4_5",
       {0, 1, 2, 3, 4, 5}},
      // layer 1 is read, so it has keys, and reads another
      {[](auto& m) { m.layer_types = {"0_0_1_3s_3s_5"}; }, "0_0_1_3s_3s_5", {0, 1, 3, 5}}};
  const TemporaryDirectory directory;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.layers);
    const LoadedModel source = random_model(six_layers(c.change));
    const auto folder = directory / c.layers;
    EXPECT_EQ(export_lckv(source, folder, false).max_logit_difference, 0);
    const Json json = Json::parse(read_file(folder / "config.json"));
    EXPECT_EQ(json["model_type"], "lckv-llama");
    EXPECT_EQ(json["layer_types"], c.layers);
    EXPECT_EQ(SafetensorsFile(folder / "model.safetensors").metadata().at("format"), "pt");
    const auto names = names_in(folder);
    for (int i = 0; i < 6; ++i) {
      const bool expected = std::ranges::find(c.with_keys, i) != c.with_keys.end();
      for (const char* projection : {"k_proj", "v_proj"}) {
        const auto name = cat("model.layers.", i, ".self_attn.", projection, ".weight");
        EXPECT_EQ(std::ranges::find(names, name) != names.end(), expected) << name;
      }
    }
    const LoadedModel back = load_model(folder);
    EXPECT_TRUE(torch::equal(logits(back), logits(source)));
    ModelConfig expected = source.model->config();
    expected.pattern = "";
    if (!json.contains("sliding_window")) expected.sliding_window = 0;
    EXPECT_EQ(back.model->config(), expected);
  }
}

TEST(LckvLayout, MissingKeysTakeTheDefaultsOfTheAuthors) {
  const ModelConfig config = six_layers([](auto& m) { m.layer_types = {"0_4s_4_4_4_5"}; });
  Json json = to_lckv_config(config, {1, {2}}, "float32");
  for (const char* key : {"sliding_window", "forward_passes", "backward_passes", "head_dim",
                          "use_sequential", "force_nodiag"}) {
    json.erase(key);
  }
  const ModelConfig back = from_hf_config(json, "config.json");
  EXPECT_EQ(back.sliding_window, 4096);
  EXPECT_EQ(back.forward_passes, 7);
  EXPECT_EQ(back.backward_passes, 2);
  EXPECT_EQ(back.head_dim, config.head_dim);
}

TEST(LckvLayout, RefusesModelsThatItCannotSay) {
  const std::pair<Change, std::string> cases[] = {
      {[](auto& m) { m.pattern = "fusedkv-lite"; }, "reads keys of layer 2 and values of layer 0"},
      {[](auto& m) { m.pattern = "fusedkv"; }, "layer 3 is of kind \"fused\""},
      {[](auto& m) { m.layer_types = {"latent"}; }, "layer 0 is of kind \"latent\""},
      {[](auto& m) {
         m.layer_types = {"sliding"};
         m.num_sink_tokens = 2;
       },
       "layer 0 keeps 2 sink tokens"},
      {[](auto& m) { m.layer_num_key_value_heads = {1, 2, 2, 2, 2, 2}; },
       "layer 1 has 2 key/value heads, layer 0 has 1"},
      {[](auto& m) { m.layer_rope_theta = {1e4, 0, 1e4, 1e4, 1e4, 1e4}; },
       "layers differ in rope_theta"},
      {[](auto& m) { m.layer_rope_theta = {0}; }, "layers differ in rope_theta, or have none"},
      {[](auto& m) { m.qk_norm = true; }, "qk_norm"},
      {[](auto& m) { m.qk_norm = m.attention_k_eq_v = true; }, "attention_k_eq_v"},
      {[](auto& m) { m.attention_sink_logits = true; }, "attention_sink_logits"},
      {[](auto& m) {
         m.hidden_size = 34;
         m.head_dim = 8;
       },
       "hidden_size 34 is no multiple of 4 heads"},
  };
  const TemporaryDirectory directory;
  for (const auto& [change, part] : cases) {
    const LoadedModel source = random_model(six_layers(change));
    const auto folder = directory / "parent" / "refused";
    expect_error([&] { export_lckv(source, folder, false); }, ExitCode::kConfig, part);
    EXPECT_FALSE(fs::exists(folder.parent_path()));
  }
}

TEST(LckvLayout, ComplaintsOnReadingNameTheFile) {
  const Json good = to_lckv_config(six_layers([](auto& m) { m.layer_types = {"0_4_4_4_4_5"}; }),
                                   {1, {2}}, "float32");
  const std::vector<std::pair<Json, std::string>> changes = {
      {{{"force_nodiag", true}}, "force_nodiag is true"},
      {{{"layer_types", "0_4x_4_4_4_5"}}, "\"4x\" in \"0_4x_4_4_4_5\" is no layer number"},
      {{{"layer_types", ""}}, "layer_types: is empty"},
      {{{"layer_types", nullptr}}, "key \"layer_types\" is missing"},
      {{{"layer_types", "0_1"}}, "has 2 entries for 6 layers"},
      {{{"layer_types", "0_9_4_4_4_5"}}, "layer 1 reads layer 9; there are layers 0 to 5"},
      {{{"layer_types", "0s_0_4_4_4_5"}}, "which has evicted all but 4096 tokens"},
      {{{"rope_scaling", {{"type", "linear"}}}}, "rope_scaling"},
  };
  for (const auto& [change, part] : changes) {
    Json bad = good;
    bad.update(change);
    const auto read = [&] { from_hf_config(bad, "some/config.json"); };
    expect_error(read, ExitCode::kConfig, part);
    expect_error(read, ExitCode::kConfig, "some/config.json");
  }
}

TEST(LatentExport, ReadsBackEqualWithAndWithoutCompressedQueries) {
  const TemporaryDirectory directory;
  for (const int64_t rank : {0, 14}) {
    const LoadedModel source = random_model(latent_layers([&](ModelConfig& model) {
      model.latent.q_lora_rank = rank;
      model.tie_word_embeddings = rank == 0;
      model.rope_theta = 5e4;
    }));
    const auto folder = directory / std::to_string(rank);
    EXPECT_EQ(export_hf(source, folder, false).max_logit_difference, 0);
    const Json json = Json::parse(read_file(folder / "config.json"));
    EXPECT_EQ(json["architectures"][0], "YoutuForCausalLM");
    EXPECT_EQ(json["q_lora_rank"].is_null(), rank == 0);
    EXPECT_EQ(json["num_key_value_heads"], 4);
    EXPECT_EQ(json["rope_interleave"], false);
    EXPECT_EQ(json["tie_word_embeddings"], rank == 0);
    EXPECT_FALSE(json.contains("head_dim"));
    const LoadedModel back = load_model(folder);
    EXPECT_EQ(back.model->config(), source.model->config());
    EXPECT_TRUE(torch::equal(logits(back), logits(source)));
  }
}

TEST(LatentExport, KeyValueHeadsMeanNothing) {
  const TemporaryDirectory directory;
  const auto source = random_model(latent_layers([](auto& m) { m.num_key_value_heads = 2; }));
  EXPECT_EQ(export_hf(source, directory / "hf", false).max_logit_difference, 0);
}

TEST(LatentExport, LatentsWithoutNormBecomeSoSmallThatANormOnlyScalesThem) {
  const TemporaryDirectory directory;
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    LoadedModel source =
        random_model(latent_layers([](ModelConfig& m) { m.latent.latent_norm = false; }));
    source.model->to(type);
    source.model->set_compute_type(type);
    const auto folder = directory / c10::toString(type);
    EXPECT_EQ(export_hf(source, folder, false).max_logit_difference, 0);
    const LoadedModel back = load_model(folder, {.type = type});
    EXPECT_EQ(back.model->config(), source.model->config());
    EXPECT_TRUE(torch::equal(logits(back), logits(source)));
    if (type != at::kFloat) continue;

    // with the norm that the class has, the same comes out
    ModelConfig normed = source.model->config();
    normed.latent.latent_norm = true;
    Decoder stock(normed);
    load_into(named_parameters(*stock), SafetensorsFile(folder / "model.safetensors"));
    stock->eval();
    constexpr double kRounding = 1e-5;
    EXPECT_LT(logit_difference(stock, source.model), kRounding);

    // another weight is a norm
    NamedTensors weights;
    {
      const SafetensorsFile file(folder / "model.safetensors");
      for (const auto& [name, info] : file.tensors())
        weights.emplace_back(name, load_tensor(file, info));
    }
    for (auto& [name, tensor] : weights)
      if (name == "model.layers.1.self_attn.kv_a_layernorm.weight") tensor[0] *= 2;
    save_tensors(folder / "model.safetensors", weights, {{"format", "pt"}});
    EXPECT_TRUE(load_model(folder).model->config().latent.latent_norm);
  }
}

/// The inverse of from_interleaved_rows, row by row.
at::Tensor interleaved(const at::Tensor& weight, int64_t kept, int64_t rotated) {
  auto out = weight.clone();
  for (int64_t block = 0; block < weight.size(0); block += kept + rotated) {
    for (int64_t i = 0; i < rotated / 2; ++i) {
      const int64_t first = block + kept;
      out[first + 2 * i] = weight[first + i];
      out[first + 2 * i + 1] = weight[first + rotated / 2 + i];
    }
  }
  return out;
}

TEST(LatentImport, InterleavedRowsOfYoutuAndDenseDeepseekAreReordered) {
  const TemporaryDirectory directory;
  for (const int64_t rank : {0, 14}) {
    const LoadedModel source =
        random_model(latent_layers([&](ModelConfig& model) { model.latent.q_lora_rank = rank; }));
    const LatentConfig& sizes = source.model->config().latent;
    const auto folder = directory / std::to_string(rank);
    export_hf(source, folder, false);
    NamedTensors weights;
    {
      const SafetensorsFile file(folder / "model.safetensors");
      for (const auto& [name, info] : file.tensors()) {
        at::Tensor tensor = load_tensor(file, info);
        if (name.ends_with("q_proj.weight") || name.ends_with("q_b_proj.weight"))
          tensor = interleaved(tensor, sizes.qk_nope_head_dim, sizes.qk_rope_head_dim);
        if (name.ends_with("kv_a_proj_with_mqa.weight"))
          tensor = interleaved(tensor, sizes.kv_lora_rank, sizes.qk_rope_head_dim);
        weights.emplace_back(name, tensor);
      }
    }
    save_tensors(folder / "model.safetensors", weights, {{"format", "pt"}});
    EXPECT_FALSE(torch::equal(logits(load_model(folder)), logits(source)));
    Json json = Json::parse(read_file(folder / "config.json"));
    json.erase("rope_interleave");  // true, if not said
    for (const char* type : {"youtu", "deepseek_v3"}) {
      json["model_type"] = type;
      json["first_k_dense_replace"] = 2;
      write_file(folder / "config.json", json.dump());
      EXPECT_TRUE(torch::equal(logits(load_model(folder)), logits(source))) << type;
    }
  }
}

TEST(LatentImport, RefusesWhatIsNotSupported) {
  const Json good = to_hf_config(latent_layers(), {1, {2}}, "float32");
  std::vector<std::pair<Json, std::string>> cases = {
      {{{"model_type", "deepseek_v3"}, {"first_k_dense_replace", 1}}, "mixtures of experts"},
      {{{"model_type", "deepseek_v3"}, {"num_hidden_layers", 9}}, "layers from 3 on"},
      {{{"attention_bias", true}}, "attention_bias"},
      {{{"kv_lora_rank", nullptr}}, "key \"kv_lora_rank\" is missing"},
      {{{"v_head_dim", 0}}, "v_head_dim is 0"},
      {{{"rope_parameters", {{"rope_type", "yarn"}}}}, "rope_type \"yarn\""},
      {{{"qk_rope_head_dim", 5}}, "qk_rope_head_dim"},
  };
  for (const auto& [change, part] : cases) {
    Json bad = good;
    bad.update(change);
    expect_error([&] { from_hf_config(bad, "config.json"); }, ExitCode::kConfig, part);
  }
  Json bad = good;
  bad.erase("q_lora_rank");
  expect_error([&] { from_hf_config(bad, "config.json"); }, ExitCode::kConfig,
               "key \"q_lora_rank\" is missing");
}

TEST(LatentExport, RefusesModelsThatNoStockClassHolds) {
  const std::pair<Change, std::string> cases[] = {
      {[](auto& m) { m.layer_types = {"latent", "full"}; },
       "layer 1 is of kind \"full\" beside latent ones"},
      {[](auto& m) { m.layer_rope_theta = {0}; }, "latent layers differ in rope_theta"},
      {[](auto& m) { m.layer_types = {"grouped_latent"}; }, "is of kind \"grouped_latent\""},
  };
  for (const auto& [change, part] : cases) {
    expect_error([&] { to_hf_config(latent_layers(change), {1, {2}}, "float32"); },
                 ExitCode::kConfig, part);
  }
}

}  // namespace
}  // namespace kvsmith
