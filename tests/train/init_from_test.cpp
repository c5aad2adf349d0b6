#include "train/init_from.h"

#include "checkpoints/tensor_file.h"
#include "configs/run_config.h"
#include "tests/data/small_tokenizer.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

Decoder made(const ModelConfig& config, uint64_t seed) {
  Decoder model(config);
  initialize(*model, seed);
  return model;
}

/// A model in one file, as `export` writes it; without a tokenizer where that is empty.
fs::path saved(const fs::path& path,
               const ModelConfig& config,
               uint64_t seed = 1,
               const std::string& tokenizer = "") {
  RunConfig run;
  run.model = config;
  run.train.sequence_length = config.max_position_embeddings;
  const auto model = made(config, seed);
  auto tensors = named_parameters(*model);
  if (!tokenizer.empty()) {
    tensors.emplace_back("tokenizer.model",
                         torch::tensor(std::vector<uint8_t>(tokenizer.begin(), tokenizer.end())));
  }
  save_tensors(path, tensors, {{"kvsmith.config", to_toml(run)}});
  return path;
}

class InitFrom : public ::testing::Test {
 protected:
  TemporaryDirectory directory_;
};

TEST_F(InitFrom, TakesWhatBothHaveAndKeepsTheRest) {
  const auto base = tiny_model(2, [](ModelConfig& c) { c.tie_word_embeddings = false; });
  const auto coded = tiny_model(2, [](ModelConfig& c) { c.layer_types = {"autoencoded"}; });
  const auto source = made(base, 1), fresh = made(coded, 2);
  auto model = made(coded, 2);
  const std::string note =
      init_from(*model, saved(directory_ / "base.safetensors", base), "").summary;
  const auto from = source->named_parameters(), before = fresh->named_parameters();
  int64_t taken = 0, added = 0;
  for (const auto& [name, parameter] : named_parameters(*model)) {
    const at::Tensor* expected = from.find(name);
    expected ? ++taken : ++added;
    EXPECT_TRUE(torch::equal(parameter, expected ? *expected : before[name])) << name;
  }
  EXPECT_EQ(added, 40);
  EXPECT_EQ(note, "init_from " + (directory_ / "base.safetensors").string() + ": " +
                      std::to_string(taken) +
                      " tensors taken, 40 new (model.layers.0.self_attn.k_encoder.in_proj.weight, "
                      "model.layers.0.self_attn.k_encoder.in_proj.bias, "
                      "model.layers.0.self_attn.k_encoder.norm.weight, ...), "
                      "1 unused (lm_head.weight)");
}

TEST_F(InitFrom, HeadsThatAreNotReusedKeepTheirRows) {
  const auto with = [](const std::vector<std::string>& reused) {
    return tiny_model(2, [&](ModelConfig& c) {
      c.layer_types = {"autoencoded"};
      c.attention_bias = true;
      c.autoencoder.reused_heads = reused;
    });
  };
  const auto all = with({});
  const auto whole = made(all, 1)->named_parameters();
  auto model = made(with({"1:0:k", "1:1:v"}), 2);
  init_from(*model, saved(directory_ / "all.safetensors", all), "");
  const auto got = model->named_parameters();
  const int64_t width = all.head_dim;
  for (const char* part : {"weight", "bias"}) {
    const std::string k = std::string("model.layers.1.self_attn.k_proj.") + part;
    const std::string v = std::string("model.layers.1.self_attn.v_proj.") + part;
    EXPECT_TRUE(torch::equal(got[k], whole[k].narrow(0, width, width))) << part;
    EXPECT_TRUE(torch::equal(got[v], whole[v].narrow(0, 0, width))) << part;
  }
  auto fewer = made(with({"1:0"}), 2);
  const auto path = saved(directory_ / "fewer.safetensors", with({"1:0:k", "1:1:v"}));
  expect_error([&] { init_from(*fewer, path, ""); }, ExitCode::kConfig,
               "layers.1.self_attn.v_proj.weight has other heads");
}

TEST_F(InitFrom, UntyingBeginsWithTheSameLogits) {
  const auto tied = tiny_model(),
             untied = tiny_model(2, [](ModelConfig& c) { c.tie_word_embeddings = false; });
  auto model = made(untied, 2);
  const auto note = init_from(*model, saved(directory_ / "tied.safetensors", tied), "").summary;
  EXPECT_NE(note.find("0 new, 0 unused"), std::string::npos) << note;
  const auto tokens = torch::arange(9, torch::kLong).unsqueeze(0);
  EXPECT_TRUE(torch::equal(model->forward(tokens), made(tied, 1)->forward(tokens)));
}

TEST_F(InitFrom, RefusesOtherShapesAndVocabulariesAndCopiesNothing) {
  auto model = made(tiny_model(), 2);
  const auto before = made(tiny_model(), 2);
  const auto refused = [&](const std::function<void(ModelConfig&)>& change,
                           const std::string& part) {
    const auto path = saved(directory_ / "other.safetensors", tiny_model(2, change));
    expect_error([&] { init_from(*model, path, ""); }, ExitCode::kConfig, part);
  };
  refused([](ModelConfig& c) { c.num_key_value_heads = 4; },
          "model.layers.1.self_attn.v_proj.weight is [32, 32], expected [16, 32]");
  refused([](ModelConfig& c) { c.vocab_size = 70; }, "has 70 token ids, the model 67");
  expect_error([&] { init_from(*model, directory_ / "none", ""); }, ExitCode::kMissingInput,
               "no such checkpoint");
  const auto untouched = before->named_parameters();
  for (const auto& [name, parameter] : named_parameters(*model))
    EXPECT_TRUE(torch::equal(parameter, untouched[name])) << name;
}

TEST_F(InitFrom, RefusesAnotherTokenizerOfTheSameSize) {
  const auto tokenizer = small_tokenizer();
  const auto config = tiny_model(2, [&](ModelConfig& c) { c.vocab_size = tokenizer.vocab_size(); });
  const auto path = saved(directory_ / "base.safetensors", config, 1, tokenizer.bytes());
  auto model = made(config, 2);
  EXPECT_NO_THROW(init_from(*model, path, tokenizer.sha256()));
  expect_error([&] { init_from(*model, path, "0123"); }, ExitCode::kConfig,
               "has the tokenizer " + tokenizer.sha256() + ", the corpus 0123");
}

TEST_F(InitFrom, ARunMayNotBeginFromItself) {
  fs::create_directories(directory_ / "run/step-000000003");
  for (const char* source : {"run", "run/latest", "run/step-000000003", "other/../run"}) {
    expect_error(
        [&] { expect_outside(directory_ / source, directory_ / "run", "train.init_from"); },
        ExitCode::kConfig, "lies in the run directory");
  }
  EXPECT_NO_THROW(expect_outside(directory_ / "run2", directory_ / "run", "train.init_from"));
  EXPECT_NO_THROW(expect_outside(directory_ / "base/run", directory_ / "run", "train.init_from"));
}

}  // namespace
}  // namespace kvsmith
