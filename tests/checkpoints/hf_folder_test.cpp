// Folders as others write them.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <torch/types.h>

#include "checkpoints/export.h"
#include "checkpoints/hf_config.h"
#include "checkpoints/load.h"
#include "checkpoints/model_source.h"
#include "checkpoints/tensor_file.h"
#include "core/files.h"
#include "core/text.h"
#include "tests/data/small_byte_bpe.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

class HfFolder : public ::testing::Test {
 protected:
  LoadedModel model(const std::function<void(ModelConfig&)>& change = {}) {
    LoadedModel out;
    out.model = Decoder(tiny_model(2, change));
    initialize(*out.model, 3);
    out.model->eval();
    out.bos_id = 1;
    out.eos_id = 2;
    return out;
  }
  /// Replaces members of a file of the folder.
  void change(const char* file, const Json& members) {
    auto json = Json::parse(read_file(folder_ / file));
    json.update(members);
    write_file(folder_ / file, json.dump());
  }

  TemporaryDirectory directory_;
  std::filesystem::path folder_ = directory_ / "hf";
};

/// config.json of SmolLM2 names a begin-of-text token that its tokenizer does not put anywhere.
TEST_F(HfFolder, TextsBeginAsTheTokenizerSays) {
  auto source = model([](ModelConfig& c) { c.vocab_size = 512; });
  source.tokenizer = small_byte_bpe("smollm");
  export_hf(source, folder_, false);
  EXPECT_EQ(Json::parse(read_file(folder_ / "config.json")).at("bos_token_id"), 1);
  EXPECT_EQ(load_model(folder_).bos_id, -1);
}

TEST_F(HfFolder, TablesOfFrequenciesThatEarlyExportersStoredAreLeftOut) {
  const auto source = model();
  export_hf(source, folder_, false);
  NamedTensors weights = named_parameters(*source.model);
  weights.emplace_back("model.layers.0.self_attn.rotary_emb.inv_freq", torch::ones({4}));
  save_tensors(folder_ / "model.safetensors", weights, {{"format", "pt"}});
  EXPECT_EQ(logit_difference(load_model(folder_).model, source.model), 0);
}

TEST_F(HfFolder, RefusesFilesOfJsonThatGoTooDeepAndTokensThatAreNone) {
  export_hf(model(), folder_, false);
  const auto open = [&] { open_model(folder_); };
  const std::string deep = cat(std::string(200'000, '['), std::string(200'000, ']'));
  for (const char* file : {"config.json", "generation_config.json"}) {
    const std::string whole = read_file(folder_ / file);
    write_file(folder_ / file, cat(R"({"x": )", deep, ", ", whole.substr(1)));
    expect_error(open, ExitCode::kBadData, "levels of JSON");
    write_file(folder_ / file, whole);
  }
  change("config.json", {{"bos_token_id", 67}});
  expect_error(open, ExitCode::kBadData, "bos_token_id is 67");
  change("config.json", {{"bos_token_id", -1}, {"eos_token_id", 4294967298}});
  expect_error(open, ExitCode::kBadData, "expected a token id below 67");
}

TEST_F(HfFolder, AKeyThatIsNullIsOneThatIsNotThere) {
  const auto source = model();
  export_hf(source, folder_, false);
  for (const char* key : {"initializer_range", "mlp_bias", "attention_bias", "rope_scaling",
                          "rope_interleave", "kv_lora_rank"})
    change("config.json", {{key, nullptr}});
  EXPECT_EQ(logit_difference(load_model(folder_).model, source.model), 0);
}

TEST_F(HfFolder, AKeyOfAnotherTypeIsNamed) {
  export_hf(model(), folder_, false);
  const auto config = Json::parse(read_file(folder_ / "config.json"));
  const std::vector<std::tuple<const char*, Json, const char*>> wrong = {
      {"num_hidden_layers", "2", "num_hidden_layers is \"2\""},
      {"vocab_size", 67.5, "vocab_size is 67.5"},
      {"rms_norm_eps", "1e-5", "rms_norm_eps is \"1e-5\""},
      {"tie_word_embeddings", 1, "tie_word_embeddings is 1"},
      {"model_type", Json::array(), "type must be string"},
      {"layer_rope_theta", 1e4, "layer_rope_theta is 10000.0"},
      {"rope_parameters", 7, "rope_parameters is 7"}};
  for (const auto& [key, value, text] : wrong) {
    change("config.json", {{key, value}});
    expect_error([&] { open_model(folder_); }, ExitCode::kBadData, text);
    expect_error([&] { open_model(folder_); }, ExitCode::kBadData, "config.json");
    write_file(folder_ / "config.json", config.dump());
  }
  change("config.json", {{"rope_parameters", {{"rope_type", 3}}}});
  expect_error([&] { open_model(folder_); }, ExitCode::kConfig, "rope_type 3 is not supported");
  write_file(folder_ / "config.json", config.dump());
  for (const char* file : {"config.json", "generation_config.json"}) {
    const std::string whole = read_file(folder_ / file);
    write_file(folder_ / file, "[]");
    expect_error([&] { open_model(folder_); }, ExitCode::kBadData, file);
    write_file(folder_ / file, whole);
  }
}

class ShardedFolder : public HfFolder {
 protected:
  void SetUp() override {
    export_hf(model(), folder_, false, 20'000);
    index_ = Json::parse(read_file(folder_ / kIndex));
    for (const auto& [name, file] : index_.at("weight_map").items()) {
      if (first_.empty()) first_ = file;
      if (of_second_.empty() && file != first_) of_second_ = name;
    }
    ASSERT_FALSE(of_second_.empty());
  }
  void expect_refused(const char* text, const char* file = kIndex) {
    expect_error([&] { open_model(folder_); }, ExitCode::kBadData, text);
    expect_error([&] { open_model(folder_); }, ExitCode::kBadData, file);
  }

  static constexpr const char* kIndex = "model.safetensors.index.json";
  Json index_;
  std::string first_;      ///< shard
  std::string of_second_;  ///< tensor
};

TEST_F(ShardedFolder, RefusesAnIndexThatDoesNotFitTheShards) {
  const Json map = index_.at("weight_map");
  const auto with = [&](const char* file) {
    Json out = map;
    out[of_second_] = file;
    write_file(folder_ / kIndex, Json{{"weight_map", out}}.dump());
  };
  with("../model-00001.safetensors");
  expect_refused("is not a plain file name");
  with("..");
  expect_refused("is not a plain file name");
  with(first_.c_str());
  expect_refused("is not in the shard that the index names", first_.c_str());
  with("gone.safetensors");
  expect_error([&] { open_model(folder_); }, ExitCode::kMissingInput, "gone.safetensors");
  write_file(folder_ / kIndex, Json{{"weight_map", {{of_second_, 7}}}}.dump());
  expect_refused("type must be string");
  write_file(folder_ / kIndex, "{}");
  expect_refused("key 'weight_map' not found");
}

/// As transformers does, which reads whole shards.
TEST_F(ShardedFolder, TensorsThatTheIndexLeavesOutAreThereAllTheSame) {
  const auto whole = load_model(folder_);
  const Json all = index_.at("weight_map");
  auto& map = index_["weight_map"];
  std::map<std::string, std::string> seen;  // a tensor of each shard
  for (const auto& [name, file] : all.items())
    if (!seen.try_emplace(file, name).second) map.erase(name);
  ASSERT_GT(map.size(), 1U);
  ASSERT_LT(map.size(), whole.model->parameters().size());
  write_file(folder_ / kIndex, index_.dump());
  EXPECT_EQ(logit_difference(load_model(folder_).model, whole.model), 0);
}

TEST_F(ShardedFolder, RefusesATensorThatIsInTwoShardsOrInNoModel) {
  const auto add = [&](const std::string& name) {
    const SafetensorsFile file(folder_ / first_);
    NamedTensors all = {{name, torch::ones({4})}};
    for (const auto& [known, info] : file.tensors())
      all.emplace_back(known, load_tensor(file, info).clone());
    save_tensors(folder_ / first_, all, {{"format", "pt"}});
  };
  const std::string whole = read_file(folder_ / first_);
  add(of_second_);
  expect_refused("as well", of_second_.c_str());
  write_file(folder_ / first_, whole);
  add("model.layers.0.self_attn.q_proj.scales");
  expect_error([&] { load_model(folder_); }, ExitCode::kConfig,
               "model.layers.0.self_attn.q_proj.scales");
}

TEST_F(HfFolder, RefusesTheTokenizerOfALargerModel) {
  auto source = model([](ModelConfig& c) { c.vocab_size = 512; });
  source.tokenizer = small_byte_bpe("smollm");
  export_hf(source, folder_, false);
  const auto tokenizer = read_file(folder_ / "tokenizer.json");
  export_hf(model(), folder_, true);  // of 67 token ids
  write_file(folder_ / "tokenizer.json", tokenizer);
  expect_error([&] { load_model(folder_); }, ExitCode::kConfig, "the model 67 token ids");
}

TEST_F(HfFolder, HeadsThatEveryLayerHasAreThoseOfTheModel) {
  const auto source = model([](ModelConfig& c) {
    c.num_key_value_heads = 4;
    c.layer_num_key_value_heads = {2};
  });
  EXPECT_EQ(export_hf(source, folder_, false).max_logit_difference, 0);
  EXPECT_EQ(Json::parse(read_file(folder_ / "config.json")).at("num_key_value_heads"), 2);
}

TEST_F(HfFolder, ASingleFileOfOursKeepsWhichTokensEndAText) {
  auto source = model();
  source.end_ids = {5, 7};
  export_kvsmith(source, directory_ / "one.safetensors", false);
  const auto back = load_model(directory_ / "one.safetensors");
  EXPECT_EQ(back.bos_id, 1);
  EXPECT_EQ(back.eos_id, 2);
  EXPECT_EQ(back.end_ids, source.end_ids);
  for (const char* output : {"", "new/"}) {
    expect_error([&] { export_kvsmith(source, directory_ / output, true); },
                 ExitCode::kCannotCreate, "name the file");
  }
}

}  // namespace
}  // namespace kvsmith
