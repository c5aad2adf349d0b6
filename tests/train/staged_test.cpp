// Runs in stages: from a checkpoint, some parameters only, and losses besides that on tokens.
#include <gtest/gtest.h>

#include "checkpoints/load.h"
#include "checkpoints/store.h"
#include "core/files.h"
#include "tests/support/close.h"
#include "tests/support/expect_error.h"
#include "tests/train/training_runs.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

std::vector<Json> metrics(const fs::path& run) {
  std::vector<Json> out;
  std::istringstream lines(read_file(run / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) out.push_back(Json::parse(line));
  return out;
}

class StagedTest : public TrainingRuns {
 protected:
  RunConfig config() const { return tiny_run(corpus_); }
  RunConfig coders_alone() const {
    RunConfig run = config();
    run.model = tiny_model(2, [](ModelConfig& c) { c.layer_types = {"autoencoded"}; });
    run.train.init_from = (directory_ / "base").string();
    run.train.trainable = {"*_encoder.*", "*_decoder.*"};
    run.train.reconstruction_loss = 1;
    return run;
  }
};

TEST_F(StagedTest, CodersAloneThenAllTogether) {
  auto base = config();
  base.train.max_steps = 100;
  base.train.checkpoint_every = 0;
  train(base, "base");

  auto coders = coders_alone();
  coders.train.max_steps = 100;
  coders.train.checkpoint_every = 0;
  coders.train.learning_rate = 1e-2;
  const auto alone = train(coders, "coders");
  EXPECT_NE(notes_.find("tensors taken, 40 new (model.layers.0.self_attn.k_encoder"),
            std::string::npos)
      << notes_;
  EXPECT_NE(notes_.find(" parameters learn, 40 of "), std::string::npos) << notes_;

  const auto history = metrics(directory_ / "coders");
  const auto error = [&](size_t step) {
    return history.at(step).at("reconstruction_loss").get<double>();
  };
  EXPECT_LT(error(99), 0.6 * error(0));
  EXPECT_FALSE(history.at(0).contains("kv_loss"));

  const auto before = load_model(directory_ / "base"), after = load_model(directory_ / "coders");
  const auto learnt = after.model->named_parameters();
  for (const auto& [name, parameter] : named_parameters(*before.model))
    EXPECT_TRUE(torch::equal(learnt[name], parameter)) << name << " was frozen";

  auto joint = coders;
  joint.train.init_from = (directory_ / "coders").string();
  joint.train.trainable = {};
  joint.train.learning_rate = 3e-3;
  const auto together = train(joint, "joint");
  EXPECT_NEAR(metrics(directory_ / "joint")[0].at("reconstruction_loss").get<double>(), error(99),
              0.2 * error(99));
  EXPECT_LT(together.validation_loss, alone.validation_loss);
}

TEST_F(StagedTest, ResumesExactlyWithFrozenParametersAndWithoutTheSource) {
  train(config(), "base");
  auto run = coders_alone();
  run.train.micro_batch_size = 2;
  train(run, "whole");
  train(run, "parts", 5);
  fs::rename(directory_ / "base", directory_ / "gone");
  EXPECT_TRUE(train(run, "parts").finished);
  for (const char* name : {"model.safetensors", "optimizer.safetensors"})
    EXPECT_EQ(file("parts", name), file("whole", name)) << name;
  const auto expected = metrics(directory_ / "whole"), got = metrics(directory_ / "parts");
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    for (const char* key : {"loss", "reconstruction_loss", "grad_norm"})
      EXPECT_EQ(got[i].at(key), expected[i].at(key)) << key << " of step " << i + 1;
  }
  const SafetensorsFile optimizer(directory_ / "parts/latest/optimizer.safetensors");
  EXPECT_EQ(optimizer.tensors().size(), 80U) << "two moments of each coder tensor";
  for (const auto& [name, info] : optimizer.tensors())
    EXPECT_NE(name.find("coder."), std::string::npos) << name;
}

TEST_F(StagedTest, ARefusedStartOverLosesNothing) {
  train(config(), "base");
  const std::string before = file("base", "model.safetensors");
  auto wrong = config();
  wrong.train.trainable = {"*_incoder.*"};
  const auto start_over = [&] {
    run_training(wrong, {.output = directory_ / "base", .resume = "never", .force = true}, {});
  };
  expect_error(start_over, ExitCode::kConfig, "no parameter fits");
  EXPECT_EQ(file("base", "model.safetensors"), before);
  EXPECT_EQ(metrics(directory_ / "base").size(), 12U);
}

TEST_F(StagedTest, CheckpointingLayersChangesNothing) {
  train(config(), "base");
  for (const char* precision : {"fp32", "bf16"}) {
    auto run = coders_alone();
    run.train.reconstruction_loss = 0;
    run.train.precision = precision;
    run.data.document_mask = true;
    const std::string plain = std::string("plain-") + precision, lean = "lean-" + plain;
    train(run, plain);
    run.train.gradient_checkpointing = true;
    train(run, lean);
    EXPECT_EQ(file(lean, "model.safetensors"), file(plain, "model.safetensors")) << precision;
  }
}

TEST_F(StagedTest, TiedEmbeddingsCanBeFrozenAndTrained) {
  train(config(), "base");
  const auto before = load_model(directory_ / "base").model->named_parameters();
  for (const bool learns : {false, true}) {
    auto run = config();
    run.train.init_from = (directory_ / "base").string();
    run.train.trainable = {learns ? "model.embed_tokens.*" : "model.layers.1.*"};
    const std::string name = learns ? "embeddings" : "layers";
    train(run, name);
    const auto loaded = load_model(directory_ / name);
    for (const auto& [parameter_name, parameter] : named_parameters(*loaded.model)) {
      const bool is_embedding = parameter_name == "model.embed_tokens.weight";
      const bool is_second = parameter_name.starts_with("model.layers.1.");
      EXPECT_NE(torch::equal(parameter, before[parameter_name]), learns ? is_embedding : is_second)
          << parameter_name;
    }
  }
}

TEST_F(StagedTest, RefusesWhatItCannotBeginWith) {
  auto run = config();
  run.train.init_from = (directory_ / "none").string();
  expect_error([&] { train(run, "run"); }, ExitCode::kMissingInput, "no such checkpoint");
  run.train.init_from = (directory_ / "run").string();
  expect_error([&] { train(run, "run"); }, ExitCode::kConfig, "lies in the run directory");
  run.train.init_from = "";
  run.train.trainable = {"*.k_porj.*"};
  expect_error([&] { train(run, "run"); }, ExitCode::kConfig,
               "the nearest is model.layers.0.self_attn.k_proj.weight");
  EXPECT_FALSE(fs::exists(directory_ / "run/metrics.jsonl"));
}

/// A trainer with all it needs.
struct Bench {
  explicit Bench(RunConfig run)
      : config(std::move(run)),
        corpus(Corpus::open(config.data.corpus[0])),
        stream({{corpus.split("train"), 1.0}},
               {.length = config.train.sequence_length, .document_mask = config.data.document_mask},
               config.train.micro_batch()),
        model(config.model) {
    initialize(*model, 3);
    trainer = std::make_unique<Trainer>(config, model, stream);
  }

  RunConfig config;
  Corpus corpus;
  BatchStream stream;
  Decoder model;
  std::unique_ptr<Trainer> trainer;
};

/// The auxiliary loss of that name; none where the step had none.
std::optional<double> loss(const StepReport& report, const std::string& name) {
  const auto found =
      std::ranges::find(report.auxiliary, name, &std::pair<std::string, double>::first);
  return found == report.auxiliary.end() ? std::nullopt : std::optional(found->second);
}

class AuxiliaryTraining : public StagedTest {
 protected:
  RunConfig both() const {
    RunConfig run = config();
    run.model = tiny_model(2, [](ModelConfig& c) {
      c.num_hidden_layers = 6;
      c.layer_types = {"autoencoded"};
      c.pattern = "lckv-sandwich-middle";
      c.forward_passes = 1;
    });
    run.train.reconstruction_loss = 0.5;
    run.train.kv_loss = 3;
    run.train.max_grad_norm = 0;
    return run;
  }
};

TEST_F(AuxiliaryTraining, MicroBatchesGiveTheGradientOfTheWholeBatch) {
  for (const bool mask : {false, true}) {  // with a mask micro-batches have different target counts
    auto run = both();
    run.data.document_mask = mask;
    Bench whole(run);
    const auto a = whole.trainer->step();
    for (const int64_t micro : {1, 2}) {
      run.train.micro_batch_size = micro;
      Bench parts(run);
      const auto b = parts.trainer->step();
      EXPECT_NEAR(a.loss, b.loss, 1e-6);
      EXPECT_NEAR(loss(a, "reconstruction_loss").value(), loss(b, "reconstruction_loss").value(),
                  1e-6);
      EXPECT_NEAR(loss(a, "kv_loss").value(), loss(b, "kv_loss").value(), 1e-6);
      EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-5);
      const auto gradients = parts.model->named_parameters();
      for (const auto& [name, parameter] : named_parameters(*whole.model))
        EXPECT_TRUE(close(gradients[name].grad(), parameter.grad(), 1e-6)) << name;
    }
  }
}

TEST_F(AuxiliaryTraining, GradientsAddUpByWeightAndTheReportedLossesHaveNone) {
  const auto run = both();
  const auto gradient_of = [&](double reconstruction, double kv) {
    auto changed = run;
    changed.train.reconstruction_loss = reconstruction;
    changed.train.kv_loss = kv;
    Bench bench(changed);
    const auto report = bench.trainer->step();
    EXPECT_EQ(loss(report, "reconstruction_loss").has_value(), reconstruction > 0);
    EXPECT_EQ(loss(report, "kv_loss").has_value(), kv > 0);
    std::vector<at::Tensor> gradients;
    for (const auto& parameter : bench.model->parameters())
      gradients.push_back(parameter.grad().flatten());
    return std::pair{report, torch::cat(gradients)};
  };
  const auto [plain, none] = gradient_of(0, 0);
  const auto [first, one] = gradient_of(1, 0);
  const auto [second, other] = gradient_of(0, 1);
  const auto [all, sum] = gradient_of(0.5, 3);
  EXPECT_EQ(plain.loss, all.loss);
  EXPECT_EQ(loss(first, "reconstruction_loss").value(), loss(all, "reconstruction_loss").value());
  EXPECT_EQ(loss(second, "kv_loss").value(), loss(all, "kv_loss").value());
  EXPECT_GT((one - none).norm().item<double>(), 1e-3);
  EXPECT_GT((other - none).norm().item<double>(), 1e-3);
  EXPECT_TRUE(close(sum, none + 0.5 * (one - none) + 3 * (other - none), 1e-5));
}

TEST_F(AuxiliaryTraining, ValidationIsOnTokensOnly) {
  auto without = both();
  without.train.reconstruction_loss = without.train.kv_loss = 0;
  Bench a(both()), b(without);
  const BatchOptions options{.length = without.train.sequence_length, .shuffle = false};
  const WindowSource source({{a.corpus.split("valid")}}, options);
  EXPECT_EQ(a.trainer->validate(source, 0).loss, b.trainer->validate(source, 0).loss);
}

TEST_F(AuxiliaryTraining, TheKvLossDrawsPassesTogether) {
  const auto change_after = [&](double weight) {
    auto run = config();
    run.model = tiny_model(2, [](ModelConfig& c) {
      c.num_hidden_layers = 6;
      c.pattern = "lckv";
      c.forward_passes = 0;
    });
    run.train.max_steps = 30;
    run.train.kv_loss = weight;
    Bench bench(run);
    for (int i = 0; i < 30; ++i) bench.trainer->step();
    bench.model->keep_auxiliary_losses(true);
    bench.model->train();
    bench.model->forward(torch::arange(16, torch::kLong).unsqueeze(0));
    return bench.model->take_auxiliary_losses().at(0).value.item<double>();
  };
  EXPECT_LT(change_after(10), 0.5 * change_after(0));
}

}  // namespace
}  // namespace kvsmith
