#include <chrono>
#include <csignal>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "checkpoints/store.h"
#include "core/files.h"
#include "tests/support/close.h"
#include "tests/support/expect_error.h"
#include "tests/support/history.h"
#include "tests/support/tiny.h"
#include "train/distiller.h"
#include "train/run.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

class Distillation : public ::testing::Test {
 protected:
  /// A student with one key/value head of a teacher with two.
  RunConfig config() {
    RunConfig run = tiny_run(corpus_);
    run.model = tiny_model(1);
    run.distill.teacher = teacher_;
    return run;
  }

  RunResult train(const RunConfig& run, const std::string& name, int64_t stop_after = 0) {
    return run_training(run, {.output = directory_ / name}, stopping_after(stop_after));
  }

  /// A figure of the last step.
  double last(const std::string& name, const char* key) {
    return nlohmann::json::parse(history(directory_ / name).back()).at(key).get<double>();
  }

  std::string make_teacher(int64_t seed = 0) {
    RunConfig run = tiny_run(corpus_);
    run.train.seed = seed;
    run.train.max_steps = 60;
    run.train.checkpoint_every = 0;
    run_training(run, {.output = directory_ / "teacher"}, {});
    return (directory_ / "teacher").string();
  }

  TemporaryDirectory directory_;
  fs::path corpus_ = tiny_corpus(directory_ / "corpus.h5");
  std::string teacher_ = make_teacher();
};

TEST_F(Distillation, DrawsTheStudentToTheTeacher) {
  auto run = config();
  run.train.max_steps = 60;
  run.distill.weight = 1;
  run.distill.mixer_loss = 0.1;
  train(run, "student");
  const auto lines = history(directory_ / "student");
  const auto first = nlohmann::json::parse(lines.front());
  EXPECT_LT(last("student", "distillation_kl"), 0.5 * first.at("distillation_kl").get<double>());
  EXPECT_LT(last("student", "mixer_loss"), first.at("mixer_loss").get<double>());
  EXPECT_LT(last("student", "loss"), first.at("loss").get<double>());
}

/// Slots and gates alone learn to give what the attention that they replace gives.
TEST_F(Distillation, TransfersAttentionToBoundedMemories) {
  auto run = config();
  run.model = tiny_model(2, [](ModelConfig& c) {
    c.layer_types = {"bounded"};
    c.sliding_window = 2;
    c.linear.num_slots = 4;
  });
  run.train.init_from = teacher_;
  run.train.trainable = {"*.slot_*"};
  run.train.max_steps = 100;
  run.train.learning_rate = 3e-2;
  run.distill.weight = 1;
  run.distill.mixer_loss = 1000;
  train(run, "student");
  const auto first = nlohmann::json::parse(history(directory_ / "student").front());
  const auto before = [&](const char* key) { return first.at(key).get<double>(); };
  EXPECT_LT(last("student", "mixer_loss"), 0.92 * before("mixer_loss"));
  EXPECT_LT(last("student", "distillation_kl"), before("distillation_kl"));
  const auto teacher = load_model(teacher_), student = load_model(directory_ / "student");
  const auto learnt = student.model->named_parameters();
  for (const auto& [name, parameter] : named_parameters(*teacher.model))
    EXPECT_TRUE(torch::equal(learnt[name], parameter)) << name;
}

TEST_F(Distillation, OfItselfTeachesNothing) {
  auto loaded = load_model(teacher_);
  DistillConfig options;
  options.teacher = teacher_;
  options.weight = 1;
  options.temperature = 2;
  options.mixer_loss = 1;
  Distiller distiller(options, *loaded.model, "");
  torch::manual_seed(1);
  const auto tokens = torch::randint(0, 67, {2, 16}, torch::kLong), targets = tokens.roll(-1, 1);
  const auto values = [](const at::Tensor& all) {
    return std::vector<int64_t>(all.const_data_ptr<int64_t>(),
                                all.const_data_ptr<int64_t>() + all.numel());
  };
  const auto loss = distiller.loss(*loaded.model, {.sequences = 2,
                                                   .length = 16,
                                                   .tokens = values(tokens),
                                                   .targets = values(targets),
                                                   .target_count = 32});
  EXPECT_NEAR(loss.total.item<double>(), 0, 1e-4);
  ASSERT_EQ(loss.figures.back().first, "mixer_loss");
  EXPECT_NEAR(loss.figures.back().second.item<double>(), 0, 32 * 1e-6);
  EXPECT_GT(loss.shown.item<double>(), 1);
}

TEST_F(Distillation, AsksOnceAboutEachSequence) {
  auto run = config();
  run.distill.top_k = 5;
  train(run, "beside");
  run.distill.cache = directory_ / "cache";
  train(run, "first");
  const auto files = [&] {
    std::vector<fs::path> out;
    for (const auto& entry : fs::recursive_directory_iterator(run.distill.cache))
      if (entry.is_regular_file()) out.push_back(entry.path());
    return out;
  };
  const auto kept = files();
  EXPECT_FALSE(kept.empty());
  run.train.micro_batch_size = 2;  // files serve any batch
  train(run, "second");
  EXPECT_EQ(files().size(), kept.size());
  run.train.micro_batch_size = 0;
  train(run, "third");
  EXPECT_EQ(history(directory_ / "first"), history(directory_ / "beside"));
  EXPECT_EQ(history(directory_ / "third"), history(directory_ / "beside"));

  std::string damaged = read_file(kept[0]);
  damaged[damaged.size() / 2] ^= 1;
  write_file(kept[0], damaged);
  const auto left_over = fs::path(kept[0]).replace_filename(".x.h5.tmp-1-99999999999-3");
  write_file(left_over, "of a killed run");
  fs::last_write_time(left_over, fs::file_time_type::clock::now() - std::chrono::hours(2));
  expect_error([&] { train(run, "fourth"); }, ExitCode::kBadData,
               "delete the file: it is made again");
  EXPECT_EQ(files().size(), kept.size());
  run.distill.temperature = 2;  // is another question
  EXPECT_NO_THROW(train(run, "fifth"));
}

TEST_F(Distillation, RefusesACacheThatCannotServe) {
  const auto refused = [](const char* keys, const char* message) {
    expect_error(
        [&] {
          parse_run_config(std::string("[distill]\nteacher = \"t\"\ncache = \"c\"\n") + keys,
                           "x.toml");
        },
        ExitCode::kConfig, message);
  };
  refused("", "set distill.top_k");
  refused("top_k = 4\nmixer_loss = 1\n", "keeps no outputs of layers");
  auto run = config();
  run.distill.top_k = 68;
  expect_error([&] { train(run, "run"); }, ExitCode::kConfig, "68 of 67 token ids");
}

TEST_F(Distillation, ResumedEqualsUninterrupted) {
  auto run = config();
  run.train.micro_batch_size = 2;
  run.distill.mixer_loss = 0.5;
  train(run, "whole");
  EXPECT_EQ(train(run, "parts", 5).signal, SIGTERM);
  EXPECT_TRUE(train(run, "parts").finished);
  EXPECT_EQ(history(directory_ / "parts"), history(directory_ / "whole"));
  EXPECT_EQ(read_file(directory_ / "parts/latest/model.safetensors"),
            read_file(directory_ / "whole/latest/model.safetensors"));
}

TEST_F(Distillation, GoesOnWithTheSameTeacherOnly) {
  auto run = config();
  train(run, "run", 5);
  fs::remove_all(teacher_);
  make_teacher(/*seed=*/1);
  expect_error([&] { train(run, "run"); }, ExitCode::kConfig, "distill.teacher");
}

TEST_F(Distillation, FollowsATeacherThatHasMovedButNoneThatComputesOtherwise) {
  auto run = config();
  train(run, "run", 5);
  fs::rename(teacher_, directory_ / "moved");
  run.distill.teacher = (directory_ / "moved").string();
  train(run, "run", 7);
  const auto info = fs::canonical(directory_ / "moved/latest");
  RunConfig theirs = parse_run_config(read_file(info / "config.toml"), "config.toml");
  theirs.model.rope_theta *= 2;
  write_file(info / "config.toml", to_toml(theirs));
  write_manifest(info, 60);
  expect_error([&] { train(run, "run"); }, ExitCode::kConfig, "distill.teacher");
}

TEST_F(Distillation, RefusesATeacherThatDoesNotFit) {
  auto run = config();
  run.model = tiny_model(1, [](ModelConfig& c) { c.num_hidden_layers = 3; });
  run.distill.mixer_loss = 1;
  expect_error([&] { train(run, "layers"); }, ExitCode::kConfig, "layers of width");
  run = config();
  run.model.vocab_size = 80;
  expect_error([&] { train(run, "vocabulary"); }, ExitCode::kConfig, "67 token ids");
  run = config();
  run.distill.teacher = directory_ / "absent";
  expect_error([&] { train(run, "none"); }, ExitCode::kMissingInput, "no such checkpoint");
  expect_error([] { parse_run_config("[distill]\nmixer_loss = 1\n", "x.toml"); }, ExitCode::kConfig,
               "there is no teacher");
}

TEST_F(Distillation, RunsEndWhenTheLossFallsNoMore) {
  RunConfig run = tiny_run(corpus_);
  run.train.max_steps = 400;
  run.train.learning_rate = run.train.min_learning_rate = 0;  // nothing is ever gained
  run.train.validate_every = 2;
  run.train.early_stopping_patience = 3;
  EXPECT_EQ(train(run, "stale", 5).signal, SIGTERM);  // in the middle of counting
  const auto result = train(run, "stale");
  EXPECT_TRUE(result.finished);
  EXPECT_EQ(result.last.step, 8);  // the first validation is a gain
  EXPECT_TRUE(train(run, "stale").finished);
  EXPECT_EQ(history(directory_ / "stale").size(), 8U);
}

}  // namespace
}  // namespace kvsmith
