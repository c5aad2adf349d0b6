#include "evaluate/sweep.h"

#include <set>

#include <gtest/gtest.h>

#include "core/files.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

class Sweep : public ::testing::Test {
 protected:
  SweepConfig config(const std::string& more = "") {
    write_file(directory_ / "sweep.toml",
               "[sweep]\ncheckpoints = [\"a\", \"b\"]\ncorpus = \"" + corpus_.string() +
                   "\"\nmethods = [\"full\", \"h2o protect_sinks=1\", \"window budget_tokens=9\"]\n"
                   "budgets = [0.5, 10]\ncodecs = [\"model\", \"int8\"]\ncontexts = [32]\n"
                   "max_tokens = 60\n" +
                   more);
    return sweep_config_of(directory_ / "sweep.toml");
  }

  SweepResult run(const SweepConfig& config) {
    return run_sweep(config, directory_ / "out",
                     {.load =
                          [&](const std::string& name) {
                            loads_.push_back(name);
                            LoadedModel model;
                            model.model = Decoder(tiny_model());
                            initialize(*model.model, name == "a" ? 1 : 2);
                            model.name = name;
                            return model;
                          },
                      .identity = [&](const std::string&) { return contents_; },
                      .note = [&](const std::string& line) { notes_.push_back(line); }});
  }

  TemporaryDirectory directory_;
  fs::path corpus_ = tiny_corpus(directory_ / "corpus.h5");
  std::vector<std::string> loads_, notes_;
  std::string contents_ = "first";
};

TEST_F(Sweep, IsEveryMethodWithTheBudgetsThatItHasNot) {
  const auto points = sweep_points(config());
  // full, two budgets of h2o, the window's own; two codecs; two checkpoints
  EXPECT_EQ(points.size(), 2U * 2 * (1 + 2 + 1));
  EXPECT_EQ(points.size(), sweep_points(config("seeds = [0, 0]\n")).size());
  // seeds are for methods that draw, and a codec that a method names is its own
  EXPECT_EQ(points.size(), sweep_points(config("seeds = [0, 1]\n")).size());
  auto drawing = config("seeds = [0, 1]\n");
  drawing.methods = {"random", "h2o int4", "leankv"};
  EXPECT_EQ(sweep_points(drawing).size(), 2U * (2 * 2 * 2 + 2 + 1));
}

TEST_F(Sweep, LeavesAMethodItsOwnSeed) {
  auto grid = config("seeds = [0, 1]\n");
  grid.methods = {"random seed=7"};
  const auto points = sweep_points(grid);
  EXPECT_EQ(points.size(), 2U * 2 * 2);  // checkpoints, budgets, codecs
  for (const auto& point : points) EXPECT_EQ(point.options.cache->seed, 7);
}

TEST_F(Sweep, TakesOtherGatesForAnotherPoint) {
  const fs::path gates = directory_ / "gates.json";
  auto grid = config();
  grid.methods = {"duo duo_gates=\"" + gates.string() + "\""};
  const auto identity = [&] { return sweep_points(grid)[0].identity; };
  const std::string missing = identity();
  write_file(gates, "{}");
  const std::string before = identity();
  EXPECT_EQ(identity(), before);
  write_file(gates, "[]");
  EXPECT_EQ((std::set{missing, before, identity()}.size()), 3U);
}

TEST_F(Sweep, PrefillFromTheEndFollowsTheContext) {
  auto grid = config("protocol = \"prefill_continue\"\nprefill = -8\n");
  grid.contexts = {16, 32};
  for (const auto& point : sweep_points(grid))
    EXPECT_EQ(point.options.prefill, point.options.context - 8);
}

TEST_F(Sweep, GoesOnWhereItWas) {
  const auto first = run(config());
  EXPECT_EQ(first.done, 16);
  EXPECT_EQ(loads_, (std::vector<std::string>{"a", "b"}));
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(directory_ / "out"))
    if (entry.path().extension() == ".json") files.push_back(entry.path());
  EXPECT_EQ(files.size(), 16U);
  const std::string before = read_file(files[3]);
  fs::remove(files[3]);
  const auto second = run(config());
  EXPECT_EQ(second.done, 1);
  EXPECT_EQ(second.known, 15);
  const auto old = nlohmann::json::parse(before),
             again = nlohmann::json::parse(read_file(files[3]));
  EXPECT_EQ(old["perplexity"], again["perplexity"]);
  EXPECT_EQ(old["method"], again["method"]);
  // another text is another point, and so is a checkpoint that went on
  contents_ = "second";
  EXPECT_EQ(run(config()).done, 16);
  EXPECT_EQ(run(config("split = \"train\"\n")).done, 16);
}

TEST_F(Sweep, LeavesOutWhatCannotBeAndSaysWhy) {
  auto grid = config();
  grid.checkpoints = {"a"};
  grid.methods = {"full", "h2o"};
  grid.codecs = {"kivi2"};
  grid.budgets = {0.5};
  const auto result = run(grid);
  EXPECT_EQ(result.refused, 2);  // heads of 8 elements, and a policy
  EXPECT_NE(notes_.back().find("none of them can be dropped"), std::string::npos);
}

TEST_F(Sweep, RefusesABadFile) {
  expect_error([&] { config("method = 1\n"); }, ExitCode::kConfig, "did you mean \"methods\"?");
  expect_error([&] { config("codecs = [\"q9_0\"]\n"); }, ExitCode::kConfig, "");
  expect_error([&] { config("prefill = -32\n"); }, ExitCode::kConfig,
               "all but 32 tokens of a context of 32");
  for (const std::string key : {"methods", "budgets", "codecs", "contexts", "seeds"}) {
    write_file(directory_ / "list.toml",
               "[sweep]\ncheckpoints = [\"a\"]\ncorpus = \"c\"\n" + key + " = []\n");
    expect_error([&] { sweep_config_of(directory_ / "list.toml"); }, ExitCode::kConfig,
                 "sweep." + key);
  }
  write_file(directory_ / "empty.toml", "[sweep]\ncorpus = \"c\"\n");
  expect_error([&] { sweep_config_of(directory_ / "empty.toml"); }, ExitCode::kConfig,
               "no checkpoint");
}

}  // namespace
}  // namespace kvsmith
