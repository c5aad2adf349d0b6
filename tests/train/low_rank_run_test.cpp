// Runs in which an adapter learns and the model does not.
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "checkpoints/adapter_source.h"
#include "checkpoints/export_peft.h"
#include "checkpoints/load.h"
#include "checkpoints/model_source.h"
#include "core/files.h"
#include "models/low_rank.h"
#include "tests/support/close.h"
#include "tests/support/expect_error.h"
#include "tests/train/training_runs.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

class LowRankRun : public TrainingRuns {
 protected:
  LowRankRun() { train(tiny_run(corpus_), "base"); }

  RunConfig config() const {
    RunConfig run = tiny_run(corpus_);
    run.train.init_from = (directory_ / "base").string();
    run.lora.rank = 4;
    run.lora.targets = {"*.q_proj", "*.v_proj", "*.down_proj"};
    return run;
  }
};

TEST_F(LowRankRun, LearnsAndKeepsTheAdapterAlone) {
  auto run = config();
  run.train.max_steps = 60;
  run.train.checkpoint_every = 0;
  const auto result = train(run, "adapter");
  EXPECT_NE(notes_.find("adapter of rank 4 on 6 linear maps"), std::string::npos) << notes_;
  const SafetensorsFile saved(directory_ / "adapter/latest/model.safetensors");
  EXPECT_EQ(saved.tensors().size(), 12U);
  EXPECT_LT(file("adapter", "model.safetensors").size(), file("base", "model.safetensors").size());

  // loaded, it is the base with what was learnt
  auto base = load_model(directory_ / "base"), adapted = load_model(directory_ / "adapter");
  const auto tokens = torch::arange(3, 33, torch::kLong).unsqueeze(0);
  EXPECT_FALSE(close(base.model->forward(tokens), adapted.model->forward(tokens), 1e-2));
  const auto weights = base.model->named_parameters();
  for (const auto& [name, value] : named_parameters(*adapted.model)) {
    const bool is_target = name.find("q_proj") != name.npos || name.find("v_proj") != name.npos ||
                           name.find("down_proj") != name.npos;
    EXPECT_NE(weights[name].equal(value), is_target) << name;
  }

  // and what the run computed beside its frozen base
  Decoder beside(run.model);
  for (const auto& [name, value] : named_parameters(*base.model))
    beside->named_parameters()[name].data().copy_(value);
  add_adapters(*beside, run.lora, 0);
  load_into(adapter_parameters(*beside), saved);
  beside->eval();
  const torch::NoGradGuard no_grad;
  EXPECT_TRUE(close(beside->forward(tokens), adapted.model->forward(tokens), 1e-5));
}

TEST_F(LowRankRun, ResumesExactly) {
  auto run = config();
  run.lora.dropout = 0.2;
  train(run, "whole");
  train(run, "parts", 5);
  EXPECT_TRUE(train(run, "parts").finished);
  for (const char* name : {"model.safetensors", "optimizer.safetensors"})
    EXPECT_EQ(file("parts", name), file("whole", name)) << name;
}

TEST_F(LowRankRun, LearnsAboveABaseInBlocksAndResumesExactly) {
  for (const char* base : {"q8_0", "q4_0"}) {
    const std::string whole = std::string("whole-") + base, parts = std::string("parts-") + base;
    auto run = config();
    run.lora.targets = {"*.q_proj", "*.gate_proj"};
    run.lora.base = base;
    train(run, whole);
    train(run, parts, 5);
    EXPECT_TRUE(train(run, parts).finished);
    EXPECT_EQ(file(parts, "model.safetensors"), file(whole, "model.safetensors")) << base;
    EXPECT_NE(notes_.find(std::string("held in ") + base), std::string::npos) << notes_;
  }
  auto wide = config();
  wide.lora.targets = {"*.o_proj"};
  wide.model = tiny_model(2, [](ModelConfig& c) { c.head_dim = 10; });
  auto base = tiny_run(corpus_);
  base.model = wide.model;
  train(base, "wide");
  wide.train.init_from = (directory_ / "wide").string();
  wide.lora.base = "q4_0";
  expect_error([&] { train(wide, "refused"); }, ExitCode::kConfig, "needs rows of");
}

TEST_F(LowRankRun, CheckpointingLayersChangesNothing) {
  auto run = config();
  train(run, "plain");
  run.train.gradient_checkpointing = true;
  train(run, "lean");
  EXPECT_EQ(file("lean", "model.safetensors"), file("plain", "model.safetensors"));
}

TEST_F(LowRankRun, RefusesAnotherModelThanItsBase) {
  auto run = config();
  run.model = tiny_model(2, [](ModelConfig& c) {
    c.layer_types = {"sliding", "full"};
    c.sliding_window = 5;
  });
  expect_error([&] { train(run, "windows"); }, ExitCode::kConfig,
               "an adapter runs as the model that it adapts");
  // what the same tensors compute is another question to a reference or a teacher
  EXPECT_NE(fingerprint("weights", run.model), fingerprint("weights", config().model));
  EXPECT_EQ(fingerprint("weights", config().model), fingerprint("weights", config().model));
}

TEST_F(LowRankRun, IsExportedInTheLayoutOfPeft) {
  train(config(), "adapter");
  EXPECT_GT(export_peft(directory_ / "adapter", directory_ / "peft", false), 0U);
  const SafetensorsFile saved(directory_ / "adapter/latest/model.safetensors"),
      written(directory_ / "peft/adapter_model.safetensors");
  EXPECT_EQ(written.tensors().size(), saved.tensors().size());
  const std::string name = "model.layers.1.self_attn.q_proj.lora_B.weight";
  EXPECT_TRUE(torch::equal(load_tensor(written, *written.find("base_model.model." + name)),
                           load_tensor(saved, *saved.find(name))));
  const auto json = nlohmann::json::parse(read_file(directory_ / "peft" / "adapter_config.json"));
  EXPECT_EQ(json["r"], 4);
  EXPECT_EQ(json["target_modules"].size(), 6U);
  EXPECT_EQ(json["target_modules"][0], "model.layers.0.mlp.down_proj");

  const auto write = [&](const char* run) {
    return [this, run] { export_peft(directory_ / run, directory_ / "new", false); };
  };
  expect_error(write("base"), ExitCode::kUsage, "no adapter");
  auto latent = tiny_run(corpus_);
  latent.model = tiny_model(2, [](ModelConfig& c) { c.layer_types = {"latent"}; });
  train(latent, "latent");
  auto run = config();
  run.model = latent.model;
  run.train.init_from = (directory_ / "latent").string();
  run.lora.targets = {"*.o_proj"};
  train(run, "latent-adapter");
  expect_error(write("latent-adapter"), ExitCode::kConfig, "hold latent layers");
  EXPECT_FALSE(fs::exists(directory_ / "new"));
}

TEST_F(LowRankRun, RefusesAnotherBaseThanItsOwn) {
  train(config(), "adapter", 5);
  auto moved = config();
  moved.train.init_from = (directory_ / "gone").string();
  auto other = tiny_run(corpus_);
  other.train.seed = 9;
  train(other, "other");
  fs::rename(directory_ / "base", directory_ / "gone");
  const auto load = [&] { load_model(directory_ / "adapter"); };
  expect_error(load, ExitCode::kMissingInput, "which is not there");
  fs::rename(directory_ / "other", directory_ / "base");
  expect_error(load, ExitCode::kConfig, "has other weights");
  expect_error([&] { train(config(), "adapter"); }, ExitCode::kConfig, "train.init_from");
  train(moved, "adapter");
}

}  // namespace
}  // namespace kvsmith
