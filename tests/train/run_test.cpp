#include "train/run.h"

#include <csignal>
#include <set>

#include <nlohmann/json.hpp>

#include "checkpoints/model_source.h"
#include "checkpoints/own_checkpoint.h"
#include "checkpoints/store.h"
#include "core/files.h"
#include "tests/support/expect_error.h"
#include "tests/support/history.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

class RunTest : public ::testing::Test {
 protected:
  RunConfig config() { return tiny_run(corpus_); }
  /// Trains in `name`; a signal is raised after step `stop_after`.
  RunResult train(const RunConfig& config,
                  const std::string& name,
                  int64_t stop_after = 0,
                  RunOptions options = {}) {
    options.output = directory_ / name;
    RunHooks hooks = stopping_after(stop_after);
    hooks.note = [&](const std::string& text) { notes_.push_back(text); };
    return run_training(config, options, hooks);
  }

  TemporaryDirectory directory_;
  fs::path corpus_ = tiny_corpus(directory_ / "corpus.h5");
  std::vector<std::string> notes_;
};

TEST_F(RunTest, NotesASplitToValidateOnThatIsMissedAndNoneThatIsNotWanted) {
  const auto is_noted = [&] {
    return std::ranges::any_of(notes_, [](const std::string& note) {
      return note.find("nothing is validated") != std::string::npos;
    });
  };
  auto run = config();
  train(run, "has");
  run.data.validation_split = "";
  train(run, "unwanted");
  EXPECT_FALSE(is_noted());
  run.data.validation_split = "missed";
  train(run, "missed");
  EXPECT_TRUE(is_noted());
}

TEST_F(RunTest, ResumedAtAnyStepEqualsUninterrupted) {
  for (const char* precision : {"fp32", "bf16"}) {
    auto run = config();
    run.train.precision = precision;
    run.model.dropout = 0.1;
    run.train.micro_batch_size = 2;
    run.data.document_mask = true;
    const std::string whole = std::string("whole-") + precision;
    train(run, whole);
    const auto expected = history(directory_ / whole);
    ASSERT_EQ(expected.size(), 12U);
    for (const int64_t stop : {2, 5, 9}) {
      const std::string name = std::string("parts-") + precision + std::to_string(stop);
      const auto first = train(run, name, stop);
      EXPECT_EQ(first.signal, SIGTERM);
      EXPECT_FALSE(first.finished);
      EXPECT_EQ(first.last.step, stop);
      EXPECT_TRUE(train(run, name).finished);
      EXPECT_EQ(history(directory_ / name), expected) << precision << ", stopped after " << stop;
      EXPECT_EQ(read_file(directory_ / name / "latest/model.safetensors"),
                read_file(directory_ / whole / "latest/model.safetensors"));
      EXPECT_EQ(read_file(directory_ / name / "latest/optimizer.safetensors"),
                read_file(directory_ / whole / "latest/optimizer.safetensors"));
    }
  }
}

TEST_F(RunTest, FallsBackToTheNewestWholeCheckpointAndRepeatsItsSteps) {
  train(config(), "whole");
  train(config(), "hurt");
  const auto expected = history(directory_ / "whole");
  write_file(directory_ / "hurt/step-000000012/optimizer.safetensors", "damaged");
  remove_durably(directory_ / "hurt/step-000000009/manifest.json");
  const auto result = train(config(), "hurt");
  EXPECT_TRUE(result.finished);
  EXPECT_EQ(history(directory_ / "hurt"), expected);
  EXPECT_TRUE(fs::exists(directory_ / "hurt/metrics.jsonl.discarded-0"));
  EXPECT_EQ(std::ranges::count_if(
                notes_, [](const auto& note) { return note.starts_with("ignored step-"); }),
            2);
  EXPECT_TRUE(inspect_checkpoint(directory_ / "hurt/step-000000012", true).complete);
}

TEST_F(RunTest, RefusesToStartOverWhenAllCheckpointsAreBad) {
  train(config(), "run");
  for (const auto& info : CheckpointStore(directory_ / "run").list())
    remove_durably(info.path / "manifest.json");
  expect_error([&] { train(config(), "run"); }, ExitCode::kBadData, "no checkpoint is usable");
}

TEST_F(RunTest, AFinishedRunIsLeftAsItIs) {
  train(config(), "run");
  const auto before = read_file(directory_ / "run/metrics.jsonl");
  EXPECT_TRUE(train(config(), "run").finished);
  EXPECT_EQ(read_file(directory_ / "run/metrics.jsonl"), before);
}

TEST_F(RunTest, RefusesAnotherConfigurationUnlessAccepted) {
  train(config(), "run", 6);
  auto other = config();
  other.train.learning_rate = 1e-3;
  other.train.log_every = 99;  // does not shape the result
  expect_error([&] { train(other, "run"); }, ExitCode::kConfig,
               "train.learning_rate: 0.003 -> 0.001");
  EXPECT_TRUE(train(other, "run", 0, {.accept = {"train.learning_rate"}}).finished);
}

TEST_F(RunTest, RefusesAnotherCorpusUnlessAccepted) {
  train(config(), "run", 6);
  auto other = config();
  other.data.corpus = {tiny_corpus(directory_ / "other.h5", 1).string()};
  expect_error([&] { train(other, "run"); }, ExitCode::kConfig, "data.corpus");
  EXPECT_EQ(train(other, "run", 8, {.accept = {"data.corpus"}}).last.step, 8);
  train(config(), "run2", 6);
  auto moved = config();
  fs::copy_file(corpus_, directory_ / "moved.h5");
  moved.data.corpus = {(directory_ / "moved.h5").string()};
  EXPECT_TRUE(train(moved, "run2").finished) << "the same corpus under another name";
}

TEST_F(RunTest, ASecondRunInOneDirectoryIsRefused) {
  const DirectoryLock lock((fs::create_directories(directory_ / "run"), directory_ / "run"));
  expect_error([&] { train(config(), "run"); }, ExitCode::kCannotCreate, "locked");
}

TEST_F(RunTest, StopsWithTheLastGoodCheckpointWhenTheLossIsNotFinite) {
  auto run = config();
  run.train.max_steps = 40;
  train(run, "run", 4);
  run.train.learning_rate = 10;
  run.train.max_grad_norm = 0;
  run.train.weight_decay = 10;
  run.train.adam_eps = 0;
  run.train.max_nonfinite = 2;
  const std::vector<std::string> accept = {"train.learning_rate", "train.max_grad_norm",
                                           "train.weight_decay", "train.adam_eps",
                                           "train.max_nonfinite"};
  try {
    train(run, "run", 0, {.accept = accept});
    FAIL() << "this run did not diverge";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kNumerical) << error.what();
  }
  EXPECT_TRUE(CheckpointStore(directory_ / "run").newest().has_value());
}

TEST_F(RunTest, KeepsTheNewestMilestonesAndTheBest) {
  auto run = config();
  run.train.checkpoint_every = 1;
  run.train.keep_last = 2;
  run.train.keep_every = 5;
  train(run, "run");
  std::set<int64_t> kept;
  for (const auto& info : CheckpointStore(directory_ / "run").list()) kept.insert(info.step);
  EXPECT_TRUE(kept.contains(12) && kept.contains(11) && kept.contains(10) && kept.contains(5));
  EXPECT_FALSE(kept.contains(3));
  EXPECT_EQ(fs::read_symlink(directory_ / "run/latest"), "step-000000012");
  EXPECT_TRUE(
      kept.contains(std::stoll(fs::read_symlink(directory_ / "run/best").string().substr(5))));
}

TEST_F(RunTest, StopsWhenTheTimeIsUpAndGoesOnLater) {
  auto run = config();
  run.train.max_time = 1e-6;
  const auto first = train(run, "run");
  EXPECT_FALSE(first.finished);
  EXPECT_EQ(first.last.step, 1);
  run.train.max_time = 0;
  EXPECT_TRUE(train(run, "run").finished);
  train(config(), "whole");
  EXPECT_EQ(read_file(directory_ / "run/latest/model.safetensors"),
            read_file(directory_ / "whole/latest/model.safetensors"));
}

TEST_F(RunTest, GoingBackToAnEarlierCheckpointNeedsForceAndKeepsWhatItSaves) {
  auto run = config();
  run.train.keep_last = 4;
  train(run, "run");
  const auto back = (directory_ / "run/step-000000003").string();
  expect_error([&] { train(run, "run", 0, {.resume = back}); }, ExitCode::kCannotCreate,
               "newer than step 3");
  const auto expected = history(directory_ / "run");
  auto refused = run;
  refused.train.learning_rate = 1e-3;
  expect_error([&] { train(refused, "run", 0, {.resume = back, .force = true}); },
               ExitCode::kConfig, "train.learning_rate");
  EXPECT_TRUE(fs::exists(directory_ / "run/step-000000012")) << "a refused run loses nothing";
  run.train.keep_last = 1;
  const auto result = train(run, "run", 5, {.resume = back, .force = true});
  EXPECT_EQ(result.last.step, 5);
  EXPECT_TRUE(inspect_checkpoint(directory_ / "run/latest", true).complete);
  EXPECT_TRUE(train(run, "run").finished);
  EXPECT_EQ(history(directory_ / "run"), expected);
}

TEST_F(RunTest, LinksThatAKilledSaveLeftBehindAreMended) {
  auto run = config();
  run.train.keep_last = 9;
  train(run, "run");
  const auto best = fs::read_symlink(directory_ / "run/best");
  replace_link(directory_ / "run/latest", "step-000000003");
  fs::remove(directory_ / "run/best");
  EXPECT_TRUE(train(run, "run").finished);
  EXPECT_EQ(fs::read_symlink(directory_ / "run/latest"), "step-000000012");
  EXPECT_EQ(fs::read_symlink(directory_ / "run/best"), best);

  // gone back, neither leads to what is dropped
  run.train.max_steps = 3;
  const auto back = (directory_ / "run/step-000000003").string();
  const std::vector<std::string> accept = {"train.max_steps"};
  train(run, "run", 0, {.resume = back, .accept = accept, .force = true});
  EXPECT_EQ(fs::read_symlink(directory_ / "run/latest"), "step-000000003");
  EXPECT_FALSE(fs::is_symlink(directory_ / "run/best"));
}

TEST_F(RunTest, WhatIsNoCheckpointOfARunIsNotResumed) {
  train(config(), "run", 6);
  const auto resume = [&](const char* name) {
    return [this, from = (directory_ / name).string()] {
      train(config(), "other", 0, {.resume = from});
    };
  };
  expect_error(resume("absent"), ExitCode::kMissingInput, "no such checkpoint");
  auto state = nlohmann::json::parse(read_file(directory_ / "run/latest/state.json"));
  resume("run")();  // its latest
  EXPECT_EQ(history(directory_ / "other").size(), 6U);
  state.erase("trainer");
  const auto model = fs::canonical(directory_ / "run/latest");
  write_file(model / "state.json", state.dump());
  write_manifest(model, 6);
  expect_error(resume("run"), ExitCode::kUsage, "begin a run from it with train.init_from");
}

TEST_F(RunTest, KeepsWhichTokensEndATextOfTheModelThatItBeganFrom) {
  train(config(), "base", 3);
  const auto at = fs::canonical(directory_ / "base/latest");
  auto state = nlohmann::ordered_json::parse(read_file(at / "state.json"));
  state.update(token_ids_json(1, 2, {5, 7}));
  write_file(at / "state.json", state.dump());
  write_manifest(at, 3);
  auto run = config();
  run.train.init_from = (directory_ / "base").string();
  train(run, "run", 5);
  EXPECT_EQ(open_model(directory_ / "run").end_ids, (std::vector<int32_t>{5, 7}));
  train(run, "run");
  EXPECT_EQ(open_model(directory_ / "run").end_ids, (std::vector<int32_t>{5, 7}));
}

TEST_F(RunTest, AValidationSplitShorterThanASequenceIsRefused) {
  auto run = config();
  run.train.sequence_length = 120;
  CorpusInfo info;
  info.vocab_size = 67;
  CorpusWriter writer(directory_ / "short.h5", info);
  writer.add_document("train", std::vector<int32_t>(5000, 3), 5000);
  writer.add_document("valid", std::vector<int32_t>(100, 3), 100);
  writer.finish();
  run.data.corpus = {(directory_ / "short.h5").string()};
  expect_error([&] { train(run, "run"); }, ExitCode::kBadData, "fewer than one sequence of 120");
}

TEST_F(RunTest, AsksForAnEndAndACorpus) {
  auto endless = config();
  endless.train.max_steps = 0;
  expect_error([&] { train(endless, "run"); }, ExitCode::kConfig, "the run has no end");
  auto none = config();
  none.data.corpus = {};
  expect_error([&] { train(none, "run"); }, ExitCode::kConfig, "no corpus is given");
  auto small = config();
  small.model.vocab_size = 10;
  expect_error([&] { train(small, "run"); }, ExitCode::kConfig, "smaller than the 67 token ids");
}

TEST_F(RunTest, NeverResumingNeedsForceToReplaceARun) {
  train(config(), "run", 4);
  expect_error([&] { train(config(), "run", 0, {.resume = "never"}); }, ExitCode::kCannotCreate,
               "earlier run");
  EXPECT_TRUE(train(config(), "run", 0, {.resume = "never", .force = true}).finished);
  EXPECT_EQ(history(directory_ / "run").size(), 12U);
}

}  // namespace
}  // namespace kvsmith
