// Gemma's block in and out of Hugging Face's layouts. That transformers computes the same is for
// tests/tools/compare_with_transformers.py.
#include <algorithm>

#include <torch/types.h>

#include "checkpoints/export.h"
#include "checkpoints/hf_config.h"
#include "checkpoints/load.h"
#include "checkpoints/tensor_file.h"
#include "core/files.h"
#include "core/text.h"
#include "tests/support/expect_error.h"
#include "tests/support/layer_cases.h"
#include "tests/support/temporary_directory.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Change = std::function<void(ModelConfig&)>;

ModelConfig six_layers(const Change& change) {
  return tiny_model(2, [&](ModelConfig& config) {
    config.num_hidden_layers = 6;
    config.sliding_window = 5;
    change(config);
  });
}

Json gemma4_json(const Change& change = {}) {
  return to_hf_config(six_layers([&](ModelConfig& config) {
                        gemma4(config);
                        if (change) change(config);
                      }),
                      {1, {2}}, "float32");
}

LoadedModel random_model(const ModelConfig& config) {
  LoadedModel out;
  out.model = Decoder(config);
  initialize(*out.model, 3);
  out.model->eval();
  const torch::NoGradGuard no_grad;
  torch::manual_seed(1);
  for (auto& [name, value] : named_parameters(*out.model))
    if (name.ends_with("norm.weight")) value.uniform_(0.5, 1.5);
  return out;
}

at::Tensor logits(const LoadedModel& loaded) {
  return Decoder(loaded.model)->forward(torch::arange(23, torch::kLong).unsqueeze(0)).detach();
}

NamedTensors tensors_of(const fs::path& folder) {
  const SafetensorsFile file(folder / "model.safetensors");
  NamedTensors out;
  for (const auto& [name, info] : file.tensors()) out.emplace_back(name, load_tensor(file, info));
  return out;
}

int64_t count(const NamedTensors& tensors, const std::string& part) {
  return std::ranges::count_if(
      tensors, [&](const auto& item) { return item.first.find(part) != std::string::npos; });
}

TEST(Gemma4, ReadsBackEqualAndKeepsTheConfiguration) {
  struct Case {
    const char* name;
    Change change;
    int64_t shared, keys, values;
  };
  const std::vector<Case> cases = {{"all-full", gemma_block, 0, 6, 6},
                                   {"local-global",
                                    [](auto& c) {
                                      gemma4(c);
                                      c.tie_word_embeddings = false;
                                      c.hidden_act = "silu";
                                    },
                                    0, 6, 4},
                                   {"shared",
                                    [](auto& c) {
                                      gemma4(c);
                                      c.pattern = "trailing-reuse-2";
                                    },
                                    2, 4, 3},
                                   {"yoco-with-biases",
                                    [](auto& c) {
                                      gemma_block(c);
                                      c.pattern = "yoco";
                                      c.rope_local_theta = c.rope_theta;
                                      c.attention_bias = true;
                                    },
                                    2, 8, 8}};  // each with its bias
  const TemporaryDirectory directory;
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const LoadedModel source = random_model(six_layers(c.change));
    const auto folder = directory / c.name;
    EXPECT_EQ(export_hf(source, folder, false).max_logit_difference, 0);
    const Json json = Json::parse(read_file(folder / "config.json"));
    EXPECT_EQ(json["architectures"][0], "Gemma4ForCausalLM");
    EXPECT_EQ(json["num_kv_shared_layers"], c.shared);
    const auto tensors = tensors_of(folder);
    EXPECT_EQ(count(tensors, ".k_proj."), c.keys);
    EXPECT_EQ(count(tensors, ".v_proj."), c.values);
    EXPECT_EQ(count(tensors, ".layer_scalar"), 6);
    EXPECT_EQ(count(tensors, "embed_tokens_per_layer"), c.shared > 0);
    const LoadedModel back = load_model(folder);
    EXPECT_TRUE(torch::equal(logits(back), logits(source)));
    ModelConfig expected = source.model->config();
    expected.pattern = "";
    if (!json.contains("sliding_window")) expected.sliding_window = 0;
    EXPECT_EQ(back.model->config(), expected);
  }
}

TEST(Gemma, RefusesModelsThatItCannotHold) {
  const std::pair<Change, std::string> cases[] = {
      {[](auto& c) { c.qk_norm = false; }, "not all of Gemma's block, qk_norm is off"},
      {[](auto& c) {
         c.v_norm = false;
         c.attention_k_eq_v = true;
       },
       "Gemma 3's block (v_norm is off), and attention_k_eq_v"},
      {[](auto& c) {
         c.v_norm = false;
         c.query_pre_attn_scalar = 1.5;
       },
       "query_pre_attn_scalar is no whole number"},
      {[](auto& c) {
         c.v_norm = false;
         c.pattern = "trailing-reuse-2";
       },
       "layer 4 reads keys of layer 3, in Gemma 3's block"},
      {[](auto& c) {
         c.v_norm = false;
         c.hidden_size = 34;
         c.head_dim = 8;
       },
       "Gemma 3's block (v_norm is off), and hidden_size 34 is no multiple of 4 heads"},
      {[](auto& c) { c.scale_embeddings = false; }, "scale_embeddings is off"},
      {[](auto& c) { c.query_pre_attn_scalar = 0; }, "query_pre_attn_scalar is not 1"},
      {[](auto& c) { c.sandwich_norm = false; }, "a block with v_norm"},
      {[](auto& c) { c.attention_sink_logits = true; }, "sink logits"},
      {[](auto& c) { c.layer_types = {"full", "sliding"}; }, "the last layer is not full"},
      {[](auto& c) { c.layer_types = {"bounded", "full"}; }, "layer 0 is of kind \"bounded\""},
      {[](auto& c) {
         c.layer_types = {"sliding", "full"};
         c.num_sink_tokens = 3;
       },
       "layer 0 keeps 3 sink tokens"},
      {[](auto& c) { c.layer_rope_theta = {1e4, 0}; }, "layer 1 has no rope_theta"},
      {[](auto& c) { c.layer_rope_theta = {1e4, 1e5}; }, "layer 1 has another rope_theta"},
      {[](auto& c) { c.layer_num_key_value_heads = {2, 1}; }, "layer 1 has another rope_theta or "},
      {[](auto& c) {
         c.layer_types = {"sliding", "full"};
         c.layer_num_key_value_heads = {2, 1};
       },
       "which needs attention_k_eq_v"},
      {[](auto& c) { c.pattern = "cla-2"; }, "layer 1 reads keys of layer 0"},
      {[](auto& c) { c.pattern = "lckv"; }, "where only trailing layers may share"},
      {[](auto& c) { c.pattern = "fusedkv-lite"; }, "and values of layer 0, where only"},
      {[](auto& c) { c.kv_source_layers = {0, 1, 2, 3, 3, 2}; }, "layer 5 reads keys of layer 2"},
  };
  for (const auto& [change, part] : cases) {
    const ModelConfig config = six_layers([&](ModelConfig& model) {
      gemma_block(model);
      model.linear.num_slots = 3;
      change(model);
    });
    expect_error([&] { to_hf_config(config, {1, {2}}, "float32"); }, ExitCode::kConfig, part);
  }
}

TEST(Gemma4, RefusesToReadWhatIsNotSupported) {
  const Json good = gemma4_json([](auto& c) { c.pattern = "trailing-reuse-2"; });
  const std::vector<std::pair<Json, std::string>> changes = {
      {{{"final_logit_softcapping", 30.0}}, "final_logit_softcapping"},
      {{{"use_bidirectional_attention", "all"}}, "use_bidirectional_attention"},
      {{{"enable_moe_block", true}}, "enable_moe_block"},
      {{{"use_double_wide_mlp", true}}, "use_double_wide_mlp"},
      {{{"num_kv_shared_layers", 6}}, "num_kv_shared_layers is 6 of 6 layers"},
      {{{"num_kv_shared_layers", 5}}, "layer 2 shares"},
      {{{"global_head_dim", 16}}, "layer 2 has its own head_dim, 16"},
      {{{"global_head_dim", nullptr}}, "layer 2 has its own head_dim, 512"},
      {{{"per_layer_config", {{"3", {{"head_dim", 16}}}}}}, "layer 3 has its own head_dim"},
      {{{"per_layer_config", {{"3", {{"intermediate_size", 16}}}}}},
       "layer 3 has its own intermediate_size"},
      {{{"rope_parameters", nullptr}}, "rope_parameters are missing"},
      {{{"rope_parameters", {{"sliding_attention", {{"rope_theta", 1e4}}}}}},
       "rope_parameters without full_attention"},
      {{{"hidden_activation", "relu"}}, "hidden_activation \"relu\""},
      {{{"head_dim", nullptr}}, "key \"head_dim\" is missing"},
  };
  for (const auto& [change, part] : changes) {
    Json bad = good;
    bad.update(change);
    expect_error([&] { from_hf_config(bad, "config.json"); }, ExitCode::kConfig, part);
  }
  Json proportional = good;
  proportional["rope_parameters"]["full_attention"]["rope_type"] = "proportional";
  expect_error([&] { from_hf_config(proportional, "config.json"); }, ExitCode::kConfig,
               "rope_type \"proportional\"");
}

TEST(Gemma4, HeadsOfGlobalLayersAreReadFromBothSpellings) {
  Json json = gemma4_json();
  const ModelConfig expected = from_hf_config(json, "config.json");
  EXPECT_EQ(expected.layer_num_key_value_heads, (std::vector<int64_t>{2, 2, 1, 2, 2, 1}));
  json.erase("num_global_key_value_heads");
  json.erase("global_head_dim");
  json["per_layer_config"] = {{"2", {{"num_key_value_heads", 1}}},
                              {"5", {{"num_key_value_heads", 1}}}};
  EXPECT_EQ(from_hf_config(json, "config.json"), expected);
}

TEST(Gemma4, TensorsThatWouldSaySomethingAreRefused) {
  const LoadedModel source = random_model(six_layers([](auto& c) {
    gemma_block(c);
    c.pattern = "trailing-reuse-2";
  }));
  const TemporaryDirectory directory;
  export_hf(source, directory / "good", false);
  for (const auto& [part, message] :
       {std::pair("layers.2.layer_scalar", "scaled layers are not supported"),
        std::pair("layers.5.post_per_layer_input_norm",
                  "per-layer embeddings are not supported")}) {
    const auto folder = directory / part;
    fs::create_directory(folder);
    fs::copy_file(directory / "good" / "config.json", folder / "config.json");
    auto tensors = tensors_of(directory / "good");
    for (auto& [name, value] : tensors)
      if (name.find(part) != name.npos) value = value + 0.5;
    save_tensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
    expect_error([&] { load_model(folder); }, ExitCode::kConfig, message);
  }
}

TEST(Gemma3, ReadsBackEqualAndKeepsTheConfiguration) {
  const std::pair<const char*, Change> cases[] = {
      {"all-full", [](auto& c) { c.query_pre_attn_scalar = 24; }},
      {"all-sliding",
       [](auto& c) {
         c.layer_types = {"sliding"};
         c.rope_local_theta = c.rope_theta;
       }},
      {"local-global",
       [](auto& c) {
         c.pattern = "local-global-5-1";
         c.rope_local_theta = 100;
         c.attention_bias = true;
         c.tie_word_embeddings = false;
       }},
  };
  const TemporaryDirectory directory;
  for (const auto& [name, change] : cases) {
    SCOPED_TRACE(name);
    const LoadedModel source = random_model(six_layers([&](ModelConfig& c) {
      gemma_block(c);
      c.v_norm = false;
      c.query_pre_attn_scalar = 0;
      change(c);
    }));
    EXPECT_EQ(export_hf(source, directory / name, false).max_logit_difference, 0);
    const Json json = Json::parse(read_file(directory / name / "config.json"));
    EXPECT_EQ(json["architectures"][0], "Gemma3ForCausalLM");
    EXPECT_FALSE(json.contains("num_kv_shared_layers"));
    const LoadedModel back = load_model(directory / name);
    EXPECT_TRUE(torch::equal(logits(back), logits(source)));
    ModelConfig expected = source.model->config();
    expected.pattern = "";
    if (!json.contains("sliding_window")) expected.sliding_window = 0;
    if (expected.query_pre_attn_scalar == 0)
      expected.query_pre_attn_scalar = static_cast<double>(expected.head_dim);
    EXPECT_EQ(back.model->config(), expected);
  }
}

TEST(Gemma3, SmallNormsAreWrittenInBothTypes) {
  const TemporaryDirectory directory;
  LoadedModel source = random_model(six_layers([&](ModelConfig& c) {
    gemma_block(c);
    c.v_norm = false;
    c.query_pre_attn_scalar = 8;
  }));
  {
    const torch::NoGradGuard no_grad;
    for (auto& [name, value] : named_parameters(*source.model))
      if (name.ends_with("norm.weight")) value.uniform_(0.1, 0.5);
  }
  EXPECT_LT(export_hf(source, directory / "fp32", false).max_logit_difference, 1e-4);
  const LoadedModel coarse = load_model(directory / "fp32", {.type = at::kBFloat16});
  EXPECT_EQ(export_hf(coarse, directory / "bf16", false).max_logit_difference, 0);
}

/// A folder of `gemma3_text`, as transformers 5 or, with `old`, earlier ones and the hub have it.
LoadedModel write_gemma3(const fs::path& folder, at::ScalarType type, bool old) {
  LoadedModel source = random_model(six_layers([](ModelConfig& c) {
    gemma_block(c);
    c.v_norm = false;
    c.query_pre_attn_scalar = 24;
    c.rms_norm_eps = 1e-6;
    c.pattern = "local-global-5-1";
    c.rope_theta = 1e6;
    c.rope_local_theta = 1e4;
  }));
  NamedTensors tensors;
  for (auto& [name, value] : named_parameters(*source.model)) {
    const torch::NoGradGuard no_grad;
    const bool norm = name.ends_with("norm.weight");
    const auto stored = (norm ? value - 1 : value).detach().to(type);
    value.copy_(norm ? stored.to(torch::kFloat) + 1 : stored.to(torch::kFloat));
    tensors.emplace_back(name, stored);
  }
  fs::create_directories(folder);
  save_tensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
  const ModelConfig& c = source.model->config();
  Json json = {{"model_type", "gemma3_text"},
               {"vocab_size", c.vocab_size},
               {"hidden_size", c.hidden_size},
               {"intermediate_size", c.intermediate_size},
               {"num_hidden_layers", 6},
               {"num_attention_heads", 4},
               {"num_key_value_heads", 2},
               {"head_dim", c.head_dim},
               {"max_position_embeddings", c.max_position_embeddings},
               {"query_pre_attn_scalar", 24},
               {"sliding_window", 5},
               {"final_logit_softcapping", nullptr},
               {"use_bidirectional_attention", false}};
  if (old) {
    json["sliding_window_pattern"] = 6;
    json["rope_scaling"] = nullptr;
  } else {
    json["layer_types"] = Json::array();
    for (const auto& kind : c.layer_types) json["layer_types"].push_back(kind + "_attention");
    json["rope_parameters"] = {{"full_attention", {{"rope_type", "default"}, {"rope_theta", 1e6}}},
                               {"sliding_attention", {{"rope_type", "default"}}}};
  }
  write_file(folder / "config.json", json.dump());
  return source;
}

TEST(Gemma3, NormsThatLackOneAreReadExactly) {
  const TemporaryDirectory directory;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const bool old : {false, true}) {
      const auto folder = directory / cat(toString(type), old);
      const LoadedModel source = write_gemma3(folder, type, old);
      const LoadedModel back = load_model(folder);
      EXPECT_TRUE(torch::equal(logits(back), logits(source)));
      EXPECT_TRUE(back.model->config().tie_word_embeddings);
      EXPECT_EQ(back.model->config().layer_rope_theta,
                (std::vector<double>{1e4, 1e4, 1e4, 1e4, 1e4, 1e6}));
    }
  }
}

TEST(Gemma3, RefusesToReadWhatIsNotSupported) {
  const TemporaryDirectory directory;
  write_gemma3(directory / "good", at::kFloat, true);
  const Json good = Json::parse(read_file(directory / "good" / "config.json"));
  const std::vector<std::pair<Json, std::string>> changes = {
      {{{"attn_logit_softcapping", 50.0}}, "attn_logit_softcapping"},
      {{{"use_bidirectional_attention", true}}, "use_bidirectional_attention"},
      {{{"rope_scaling", {{"rope_type", "linear"}, {"factor", 8.0}}}}, "rope_scaling"},
      {{{"query_pre_attn_scalar", nullptr}}, "key \"query_pre_attn_scalar\" is missing"},
  };
  for (const auto& [change, part] : changes) {
    Json bad = good;
    bad.update(change);
    expect_error([&] { from_hf_config(bad, "config.json"); }, ExitCode::kConfig, part);
  }
}

}  // namespace
}  // namespace kvsmith
