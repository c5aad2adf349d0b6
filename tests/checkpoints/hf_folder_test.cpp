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
  const std::string config = read_file(folder_ / "config.json");
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
  for (const char* key : {"initializer_range", "mlp_bias", "attention_bias", "rope_scaling"})
    change("config.json", {{key, nullptr}});
  EXPECT_EQ(logit_difference(load_model(folder_).model, source.model), 0);
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
