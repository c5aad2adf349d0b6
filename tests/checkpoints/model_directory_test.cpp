#include "checkpoints/model_directory.h"

#include <cmath>
#include <map>

#include <torch/types.h>

#include "checkpoints/load.h"
#include "checkpoints/store.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "tests/data/small_tokenizer.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

/// A random model in memory; every tensor is read once.
class WriteModel : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto config = tiny_model(2, [](ModelConfig& m) { m.vocab_size = 600; });
    model_ = Decoder(config);
    initialize(*model_, 5);
    source_.config = config;
    source_.name = "random";
    source_.path = "somewhere";
    source_.bos_id = 1;
    source_.eos_id = 2;
    source_.tokenizer = small_model();
    for (const auto& [name, tensor] : named_parameters(*model_)) {
      values_[name] = tensor.detach();
      source_.tensors[name] = {tensor.sizes().vec(), at::kFloat};
    }
    source_.read = [this](const std::string& name) {
      ++reads_[name];
      return values_.at(name);
    };
  }
  void write(bool force = false, std::optional<at::ScalarType> type = {}) {
    write_model(source_, out_, force, {{"made_from", "nothing"}}, type);
  }
  at::Tensor logits(Decoder model) {
    return model->forward(torch::arange(9, torch::kLong).unsqueeze(0)).detach();
  }

  TemporaryDirectory directory_;
  fs::path out_ = directory_ / "not" / "yet" / "out";
  Decoder model_{nullptr};
  ModelSource source_;
  std::map<std::string, at::Tensor> values_;
  std::map<std::string, int> reads_;
};

TEST_F(WriteModel, IsACompleteCheckpointThatLoadsAsTheSource) {
  write();
  EXPECT_TRUE(inspect_checkpoint(out_, true).complete);
  const LoadedModel back = load_model(out_);
  EXPECT_TRUE(torch::equal(logits(back.model), logits(model_)));
  EXPECT_EQ(back.model->config(), source_.config);
  EXPECT_EQ(back.name, "out");
  EXPECT_EQ(back.bos_id, 1);
  EXPECT_EQ(back.eos_id, 2);
  ASSERT_TRUE(back.tokenizer);
  EXPECT_EQ(back.tokenizer->bytes(), small_model());
  EXPECT_EQ(Json::parse(read_file(out_ / "state.json"))["origin"],
            Json({{"made_from", "nothing"}}));
  for (const auto& [name, times] : reads_) EXPECT_EQ(times, 1) << name;
}

TEST_F(WriteModel, KeepsTheTypeOfEachTensorUnlessToldOtherwise) {
  const std::string norm = "model.norm.weight", matrix = "model.layers.1.mlp.up_proj.weight";
  values_[norm] = values_[norm].to(at::kBFloat16);
  source_.tensors[norm].type = at::kBFloat16;
  write();
  const auto type_of = [&](const std::string& name) {
    return SafetensorsFile(out_ / "model.safetensors").find(name)->dtype;
  };
  EXPECT_EQ(type_of(norm), "BF16");
  EXPECT_EQ(type_of(matrix), "F32");
  write(true, at::kBFloat16);
  EXPECT_EQ(type_of(norm), "BF16");
  EXPECT_EQ(type_of(matrix), "BF16");
  write(true, at::kFloat);
  EXPECT_EQ(type_of(norm), "F32");
}

TEST_F(WriteModel, ReplacesModelsAloneAndOnlyWhenTold) {
  write();
  expect_error([&] { write(); }, ExitCode::kCannotCreate, out_.string());
  EXPECT_NO_THROW(write(true));
  fs::remove_all(out_);
  fs::create_directories(out_);
  write_file(out_ / "diary.txt", "mine");
  expect_error([&] { write(true); }, ExitCode::kCannotCreate, out_.string());
  expect_error([&] { expect_model_output(out_, true); }, ExitCode::kCannotCreate, out_.string());
  EXPECT_EQ(read_file(out_ / "diary.txt"), "mine");
}

TEST_F(WriteModel, LeavesNothingWhereTensorsAreNotThoseOfTheModel) {
  const auto refuse = [&](ExitCode code, const std::string& part) {
    expect_error([&] { write(); }, code, part);
    EXPECT_FALSE(fs::exists(out_));
    EXPECT_TRUE(fs::is_empty(out_.parent_path()));
  };
  const auto tensors = source_.tensors;
  source_.tensors.erase("model.norm.weight");
  refuse(ExitCode::kConfig, "missing model.norm.weight");
  source_.tensors = tensors;
  source_.tensors["model.norm.bias"] = {{32}};
  refuse(ExitCode::kConfig, "surplus model.norm.bias");
  source_.tensors = tensors;
  source_.tensors["model.norm.weight"].shape = {31};
  refuse(ExitCode::kConfig, "model.norm.weight is [31], expected [32]");
  EXPECT_TRUE(reads_.empty());
  source_.tensors = tensors;
  values_["model.norm.weight"] = torch::full({32}, NAN);
  refuse(ExitCode::kNumerical, "model.norm.weight");
}

}  // namespace
}  // namespace kvsmith
