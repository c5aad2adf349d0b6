#include "checkpoints/export.h"
#include "checkpoints/hf_config.h"
#include "checkpoints/load.h"
#include "checkpoints/store.h"
#include "core/files.h"
#include "tests/support/close.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    config_.model = tiny_model();
    config_.train.sequence_length = 16;
    model_ = Decoder(config_.model);
    initialize(*model_, 1);
  }
  fs::path save(int64_t step) {
    const Snapshot snapshot{.config = config_,
                            .weights = named_parameters(*model_),
                            .optimizer = {{"exp_avg.x", torch::ones({3})}},
                            .tokenizer = {},
                            .state = {{"step", step}, {"trainer", {{"tokens", 10 * step}}}}};
    return CheckpointStore(directory_.path()).save(snapshot, step, false);
  }
  at::Tensor logits(const Decoder& model) {
    return Decoder(model)->forward(torch::arange(9, torch::kLong).unsqueeze(0)).detach();
  }

  TemporaryDirectory directory_;
  RunConfig config_;
  Decoder model_{nullptr};
};

TEST_F(CheckpointTest, LoadsWhatWasSavedFromRunLinkAndDirectory) {
  const auto path = save(40);
  for (const auto& name : {directory_.path(), directory_ / "latest", path}) {
    const auto loaded = load_model(name);
    EXPECT_EQ(loaded.step, 40);
    EXPECT_EQ(loaded.tokens_seen, 400);
    EXPECT_EQ(loaded.name, directory_.path().filename().string());
    EXPECT_TRUE(torch::equal(logits(loaded.model), logits(model_)));
  }
  EXPECT_EQ(load_model(path, {.type = at::kBFloat16}).model->head_weight().scalar_type(),
            at::kBFloat16);
}

TEST_F(CheckpointTest, VerifyingAndLoadingFindAFlippedBitInAnyFile) {
  const auto path = save(1);
  EXPECT_TRUE(inspect_checkpoint(path, true).complete);
  for (const auto& entry : fs::directory_iterator(path)) {
    if (entry.path().filename() == "manifest.json") continue;
    const std::string before = read_file(entry.path());
    std::string after = before;
    after[after.size() / 2] ^= 1;
    write_file(entry.path(), after);
    const auto info = inspect_checkpoint(path, true);
    EXPECT_FALSE(info.complete);
    EXPECT_NE(info.problem.find(entry.path().filename().string()), std::string::npos)
        << info.problem;
    expect_error([&] { load_model(path); }, ExitCode::kBadData, entry.path().filename().string());
    write_file(entry.path(), before);
  }
  EXPECT_TRUE(inspect_checkpoint(path, true).complete);
  fs::remove(path / "optimizer.safetensors");
  EXPECT_EQ(inspect_checkpoint(path, false).problem, "optimizer.safetensors is missing");
  expect_error([&] { load_model(path); }, ExitCode::kBadData, "is missing");
}

TEST_F(CheckpointTest, WeightsThatAreNotFiniteAreNotSaved) {
  save(1);
  {
    const torch::NoGradGuard no_grad;
    model_->parameters()[0].view(-1)[5] = NAN;
  }
  expect_error([&] { save(2); }, ExitCode::kNumerical, "model.embed_tokens.weight");
  EXPECT_FALSE(fs::exists(directory_ / "step-000000002"));
  EXPECT_EQ(CheckpointStore(directory_.path()).newest()->step, 1);
}

TEST_F(CheckpointTest, ListsAllThatDoesNotFitTheModel) {
  save_tensors(directory_ / "x.safetensors", {{"a", torch::ones({2})}, {"b", torch::ones({3})}},
               {});
  const SafetensorsFile file(directory_ / "x.safetensors");
  const auto load = [&] { load_into({{"a", torch::zeros({4})}, {"c", torch::zeros({1})}}, file); };
  expect_error(load, ExitCode::kConfig, "a is [2], expected [4]; missing c; surplus b");
}

TEST_F(CheckpointTest, MissingThingsAreNamed) {
  expect_error([&] { load_model(directory_ / "none"); }, ExitCode::kMissingInput,
               "no such checkpoint");
  expect_error([&] { load_model(directory_.path()); }, ExitCode::kMissingInput,
               "no checkpoint in this directory");
  save_tensors(directory_ / "x.safetensors", {{"a", torch::ones({2})}}, {});
  expect_error([&] { load_model(directory_ / "x.safetensors"); }, ExitCode::kBadData,
               "without a model configuration");
}

TEST_F(CheckpointTest, ExportsReadBackEqualInEveryFamilyAndSharding) {
  struct Case {
    bool bias, norm, tied;
    uint64_t shard_bytes;
    const char* family;
    std::vector<std::string> types = {"full"};
    std::vector<double> theta = {};
    bool sink_logits = false;
  };
  int n = 0;
  for (const Case& c : std::vector<Case>{
           {false, false, true, 1 << 30, "LlamaForCausalLM"},
           {false, false, false, 9000, "LlamaForCausalLM"},
           {true, false, true, 1 << 30, "LlamaForCausalLM"},
           {false, true, true, 1 << 30, "Qwen3ForCausalLM"},
           {false, true, true, 1 << 30, "Qwen3ForCausalLM", {"full", "sliding"}},
           {false, false, true, 1 << 30, "MistralForCausalLM", {"sliding"}},
           {false, false, false, 1 << 30, "GraniteSWAForCausalLM", {"full", "sliding"}, {5e5, 0}},
           {true, false, true, 1 << 30, "GraniteSWAForCausalLM", {"sliding", "full"}, {}, true}}) {
    config_.model = tiny_model(2, [&](ModelConfig& model) {
      model.attention_bias = c.bias;
      model.qk_norm = c.norm;
      model.tie_word_embeddings = c.tied;
      model.layer_types = c.types;
      model.sliding_window = 5;
      model.layer_rope_theta = c.theta;
      model.attention_sink_logits = c.sink_logits;
    });
    model_ = Decoder(config_.model);
    initialize(*model_, 2);
    const auto loaded = load_model(save(100 + n));
    const auto folder = directory_ / "not" / "yet" / ("hf" + std::to_string(n));
    EXPECT_EQ(export_hf(loaded, folder, false, c.shard_bytes).max_logit_difference, 0);
    EXPECT_EQ(Json::parse(read_file(folder / "config.json"))["architectures"][0], c.family);
    EXPECT_EQ(fs::exists(folder / "model.safetensors.index.json"), c.shard_bytes == 9000);
    EXPECT_TRUE(torch::equal(logits(load_model(folder).model), logits(model_)));
    const auto file = directory_ / ("one" + std::to_string(n++)) / "single.safetensors";
    export_kvsmith(loaded, file, false);
    EXPECT_TRUE(torch::equal(logits(load_model(file).model), logits(model_)));
    expect_error([&] { export_hf(loaded, folder, false); }, ExitCode::kCannotCreate,
                 folder.string());
    EXPECT_NO_THROW(export_hf(loaded, folder, true));
  }
}

TEST(HfConfig, RoundTrips) {
  const auto config = tiny_model(2, [](ModelConfig& model) {
    model.rope_theta = 5e5;
    model.tie_word_embeddings = false;
  });
  EXPECT_EQ(from_hf_config(to_hf_config(config, {1, {2}}, "float32"), "x"), config);
}

TEST(HfConfig, RefusesModelsThatNoStockClassHolds) {
  const auto with = [](const std::function<void(ModelConfig&)>& change) {
    return tiny_model(2, [&](ModelConfig& model) {
      model.sliding_window = 5;
      change(model);
    });
  };
  const std::pair<ModelConfig, std::string> cases[] = {
      {with([](auto& c) { c.pattern = "cla-2"; }), "layer 1 reads keys and values of layer 0"},
      {with([](auto& c) { c.layer_num_key_value_heads = {1, 2}; }),
       "layer 1 has 2 key/value heads, layer 0 has 1"},
      {with([](auto& c) {
         c.layer_types = {"sliding"};
         c.num_sink_tokens = 2;
       }),
       "layer 0 keeps 2 sink tokens"},
      {with([](auto& c) { c.attention_k_eq_v = c.qk_norm = true; }), "attention_k_eq_v"},
      {with([](auto& c) {
         c.qk_norm = true;
         c.layer_rope_theta = {10, 20};
       }),
       "layers differ in rope_theta"},
  };
  for (const auto& [config, part] : cases)
    expect_error([&] { to_hf_config(config, {1, {2}}, "float32"); }, ExitCode::kConfig, part);
}

TEST(HfConfig, RefusesWhatIsNotSupported) {
  const Json good = to_hf_config(tiny_model(), {1, {2}}, "float32");
  const std::vector<std::pair<Json, std::string>> changes = {
      {{{"model_type", "gpt2"}}, "model_type \"gpt2\" is not supported"},
      {{{"hidden_act", "gelu"}}, "hidden_act \"gelu\""},
      {{{"mlp_bias", true}}, "biases in the feed-forward layer"},
      {{{"rope_scaling", {{"type", "linear"}}}}, "rope_scaling"},
      {{{"rope_parameters", {{"rope_type", "yarn"}}}}, "rope_type \"yarn\""},
      {{{"hidden_size", nullptr}}, "key \"hidden_size\" is missing"},
  };
  for (const auto& [change, part] : changes) {
    Json bad = good;
    bad.update(change);
    expect_error([&] { from_hf_config(bad, "config.json"); }, ExitCode::kConfig, part);
  }
}

}  // namespace
}  // namespace kvsmith
