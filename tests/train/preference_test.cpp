#include "train/preference.h"

#include <cmath>
#include <map>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "checkpoints/load.h"
#include "data/pairs.h"
#include "tests/support/close.h"
#include "tests/support/expect_error.h"
#include "tests/support/history.h"
#include "tests/train/pair_runs.h"

namespace kvsmith {
namespace {

using Json = nlohmann::json;

/// Log-probabilities of one pair, and what the loss of it is.
struct Case {
  double policy[2], reference[2], beta, smoothing;
};

TEST(PreferenceLosses, FollowTheFormula) {
  for (const Case& c : std::vector<Case>{{{-10, -12}, {-11, -11}, 0.1, 0},
                                         {{-30, -8}, {-11, -40}, 0.5, 0},
                                         {{-10, -12}, {-11, -11}, 0.3, 0.2},
                                         {{-5, -5}, {-5, -5}, 0.1, 0},
                                         {{-900, -5}, {-5, -900}, 1, 0}}) {
    PreferenceConfig config;
    config.beta = c.beta;
    config.label_smoothing = c.smoothing;
    const auto row = [](const double* x) {
      return torch::tensor({{static_cast<float>(x[0]), static_cast<float>(x[1])}});
    };
    const auto losses = preference_losses(config, row(c.policy), row(c.reference));
    const double chosen = c.beta * (c.policy[0] - c.reference[0]),
                 rejected = c.beta * (c.policy[1] - c.reference[1]), margin = chosen - rejected;
    const auto log_sigmoid = [](double x) { return -std::log1p(std::exp(-x)); };
    const double want = margin < -100 ? -margin  // where the exponential overflows
                                      : -(1 - c.smoothing) * log_sigmoid(margin) -
                                            c.smoothing * log_sigmoid(-margin);
    EXPECT_NEAR(losses.loss.item<double>(), want, 1e-6 * std::max(1.0, want));
    EXPECT_NEAR(losses.chosen.item<double>(), chosen, 1e-4);
    EXPECT_NEAR(losses.rejected.item<double>(), rejected, 1e-4);
  }
}

class PreferenceRun : public PairRuns {
 protected:
  Json line(const std::string& run, bool is_last = true) const {
    const auto lines = history(directory_ / run);
    return Json::parse(is_last ? lines.back() : lines.front());
  }

  size_t cached_files(const RunConfig& run) const {
    size_t count = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(run.preference.cache))
      count += entry.is_regular_file();
    return count;
  }

  /// A batch of the first pairs of the training split, padded.
  Batch batch(int64_t pairs) const {
    return PairSource({{Corpus::open(pairs_).split("train")}}, {.length = 16, .shuffle = false})
        .make(0, 2 * pairs);
  }

  /// The model that runs begin with, and can learn.
  Decoder base() const {
    auto model = load_model(directory_ / "base").model;
    for (auto& parameter : model->parameters()) parameter.set_requires_grad(true);
    return model;
  }
};

/// [pairs, 2] log-probabilities from all logits, one sequence and one token at a time.
at::Tensor by_hand(DecoderImpl& model, const Batch& batch, bool is_normalised) {
  std::vector<at::Tensor> all;
  for (int64_t s = 0; s < batch.sequences; ++s) {
    std::vector<int64_t> tokens, targets;
    for (int64_t i = 0; i < batch.length; ++i) {
      tokens.push_back(batch.tokens[static_cast<size_t>(s * batch.length + i)]);
      targets.push_back(batch.targets[static_cast<size_t>(s * batch.length + i)]);
    }
    while (targets.back() < 0) targets.pop_back();
    tokens.resize(targets.size());
    const auto log_p = torch::log_softmax(model.forward(torch::tensor(tokens).unsqueeze(0))[0], -1);
    auto sum = torch::zeros({});
    int64_t count = 0;
    for (size_t i = 0; i < targets.size(); ++i) {
      if (targets[i] < 0) continue;
      sum = sum + log_p[static_cast<int64_t>(i)][targets[i]];
      ++count;
    }
    all.push_back(is_normalised ? sum / count : sum);
  }
  return torch::stack(all).view({-1, 2});
}

TEST_F(PreferenceRun, TheGradientIsThatOfTheFormulaFromAllLogits) {
  const Batch pairs = batch(3);
  ASSERT_GT(pairs.sequences * pairs.length, pairs.token_count);  // there is padding
  for (const char* method : {"dpo", "dpo_norm"}) {
    RunConfig run = config(method);
    Decoder learner = base(), other = base();
    {
      // a policy that is not its reference any more
      const torch::NoGradGuard no_grad;
      torch::manual_seed(3);
      for (size_t i = 0; i < learner->parameters().size(); ++i) {
        const auto change = torch::randn_like(learner->parameters()[i]) * 0.02;
        learner->parameters()[i].add_(change);
        other->parameters()[i].add_(change);
      }
    }
    PreferenceObjective objective(run.preference, Reference(run, learner, "", ""));
    EXPECT_EQ(objective.count(pairs), 3);
    const auto loss = objective.loss(*learner, pairs);
    loss.total.backward();

    const bool is_normalised = run.preference.is_normalised();
    at::Tensor reference;
    {
      const torch::NoGradGuard no_grad;
      reference = by_hand(*base(), pairs, is_normalised);
    }
    const auto gain = (by_hand(*other, pairs, is_normalised) - reference) * run.preference.beta;
    const auto margin = gain.select(1, 0) - gain.select(1, 1);
    const auto want = torch::log1p(torch::exp(-margin)).sum();
    want.backward();
    EXPECT_NEAR(loss.total.item<double>(), want.item<double>(), 1e-4) << method;
    EXPECT_NEAR(loss.figures[2].second.item<double>(), margin.sum().item<double>(), 1e-4);
    EXPECT_EQ(loss.figures[3].second.item<double>(), margin.gt(0).sum().item<double>());
    for (const auto& item : learner->named_parameters()) {
      EXPECT_TRUE(close(item.value().grad(), other->named_parameters()[item.key()].grad(), 1e-4))
          << method << " " << item.key();
    }
  }
}

TEST_F(PreferenceRun, WhatPaddingHoldsChangesNothing) {
  Batch zeros = batch(3), sevens = zeros;
  for (size_t begin = 0; begin < sevens.tokens.size(); begin += 1) {
    const auto length = static_cast<size_t>(sevens.length);
    const auto row_end = (begin / length + 1) * length;
    bool is_padding = true;
    for (size_t i = begin; i < row_end; ++i) is_padding &= sevens.targets[i] < 0;
    if (is_padding) sevens.tokens[begin] = 7;
  }
  ASSERT_NE(zeros.tokens, sevens.tokens);
  Decoder model = base(), other = base();
  const auto a = answer_log_probabilities(*model, zeros),
             b = answer_log_probabilities(*other, sevens);
  EXPECT_TRUE(torch::equal(a, b));
  a.sum().backward();
  b.sum().backward();
  for (const auto& item : model->named_parameters())
    EXPECT_TRUE(torch::equal(item.value().grad(), other->named_parameters()[item.key()].grad()))
        << item.key();
  const torch::NoGradGuard no_grad;
  EXPECT_TRUE(close(a, by_hand(*model, zeros, false), 1e-5));  // each without padding
}

TEST_F(PreferenceRun, BeginsWithoutAnyPreference) {
  for (const bool has_adapter : {false, true}) {
    for (const char* precision : {"fp32", "bf16"}) {
      RunConfig run = has_adapter ? adapted() : config();
      run.train.micro_batch_size = 2;
      run.train.precision = precision;
      run.train.max_steps = 3;
      const auto name = std::string(precision) + (has_adapter ? "-lora" : "");
      train(run, name);
      const auto first = line(name, false);
      EXPECT_EQ(first.at("loss").get<double>(), static_cast<float>(std::log(2.0))) << name;
      EXPECT_EQ(first.at("rewards/margins").get<double>(), 0) << name;
      EXPECT_EQ(first.at("rewards/accuracies").get<double>(), 0) << name;
      EXPECT_NE(line(name).at("rewards/margins").get<double>(), 0) << name;
    }
  }
}

TEST_F(PreferenceRun, MakesTheChosenLikelierAndTheRejectedLessLikely) {
  for (const char* method : {"dpo", "dpo_norm"}) {
    RunConfig run = config(method);
    run.train.max_steps = 60;
    run.train.validate_every = 0;
    train(run, method);
    const auto last = line(method);
    EXPECT_GT(last.at("rewards/chosen").get<double>(), 0.02) << method;
    EXPECT_LT(last.at("rewards/rejected").get<double>(), -0.02) << method;
    EXPECT_NEAR(last.at("rewards/margins").get<double>(),
                last.at("rewards/chosen").get<double>() - last.at("rewards/rejected").get<double>(),
                1e-6);
    EXPECT_EQ(last.at("rewards/accuracies").get<double>(), 1) << method;
    EXPECT_LT(last.at("loss").get<double>(), 0.6) << method;
    // and on pairs that it has not seen
    EXPECT_LT(last.at("validation_loss").get<double>(), std::log(2)) << method;
    EXPECT_GT(last.at("validation_rewards/accuracies").get<double>(), 0.7) << method;
  }
}

TEST_F(PreferenceRun, MicroBatchesGiveTheResultOfTheWholeBatch) {
  auto run = config();
  run.train.max_steps = 4;
  train(run, "whole");
  run.train.micro_batch_size = 2;
  train(run, "parts");
  EXPECT_NEAR(line("parts").at("loss").get<double>(), line("whole").at("loss").get<double>(), 1e-5);
  EXPECT_NEAR(line("parts").at("grad_norm").get<double>(),
              line("whole").at("grad_norm").get<double>(), 1e-3);
}

TEST_F(PreferenceRun, ResumesExactly) {
  const std::map<std::string, RunConfig> runs = {
      {"full", config()}, {"norm", config("dpo_norm")}, {"lora", adapted()}};
  for (auto [name, run] : runs) {
    for (const bool is_cached : {false, true}) {
      if (is_cached) run.preference.cache = (directory_ / "cache").string();
      const auto whole = name + (is_cached ? "-cached" : ""), parts = "parts-" + whole;
      train(run, whole);
      train(run, parts, 5);
      EXPECT_TRUE(train(run, parts).finished);
      for (const char* part : {"model.safetensors", "optimizer.safetensors"})
        EXPECT_EQ(file(parts, part), file(whole, part)) << whole;
      EXPECT_EQ(history(directory_ / parts), history(directory_ / whole)) << whole;
    }
  }
}

TEST_F(PreferenceRun, KeptAnswersAreThoseOfTheReference) {
  for (auto [name, run] : std::map<std::string, RunConfig>{
           {"full", config()}, {"lora", adapted()}, {"q4_0", adapted("q4_0")}}) {
    train(run, name);
    run.preference.cache = (directory_ / ("cache-" + name)).string();
    notes_.clear();
    train(run, name + "-first");
    EXPECT_NE(notes_.find("reference asked about 20 of 20 pairs"), std::string::npos) << notes_;
    const auto kept = cached_files(run);
    EXPECT_EQ(kept, 2U);  // of each split
    notes_.clear();
    train(run, name + "-again");
    EXPECT_EQ(notes_.find("asked about"), std::string::npos) << notes_;
    EXPECT_EQ(history(directory_ / (name + "-first")), history(directory_ / name)) << name;
    EXPECT_EQ(history(directory_ / (name + "-again")), history(directory_ / name)) << name;
    run.train.precision = "bf16";  // is another question
    train(run, name + "-bf16");
    EXPECT_EQ(cached_files(run), 2 * kept);
  }
}

TEST_F(PreferenceRun, RefusesAKeptAnswerThatIsDamaged) {
  auto run = config();
  run.preference.cache = (directory_ / "cache").string();
  train(run, "first");
  for (const auto& entry : std::filesystem::recursive_directory_iterator(run.preference.cache)) {
    if (!entry.is_regular_file()) continue;
    const std::string whole = read_file(entry.path());
    write_file(entry.path(), whole.substr(0, whole.size() - 8));
  }
  expect_error([&] { train(run, "second"); }, ExitCode::kBadData,
               "delete the file: it is made again");
}

TEST_F(PreferenceRun, OtherMapsInBlocksAreAnotherReference) {
  RunConfig run = adapted("q4_0");
  run.preference.cache = (directory_ / "cache").string();
  train(run, "few");
  run.lora.targets = {"*_proj"};
  train(run, "all");
  EXPECT_NEAR(line("all", false).at("rewards/margins").get<double>(), 0, 1e-6);
}

TEST_F(PreferenceRun, ComparesWithAnotherModelWhereOneIsNamed) {
  auto other = tiny_run(corpus_);
  other.train.seed = 9;
  train(other, "other");
  auto run = config();
  run.preference.reference = (directory_ / "other").string();
  train(run, "run", 5);
  EXPECT_NE(line("run", false).at("rewards/margins").get<double>(), 0);
  other.train.seed = 10;
  std::filesystem::remove_all(directory_ / "other");
  train(other, "other");
  expect_error([&] { train(run, "run"); }, ExitCode::kConfig, "preference.reference");
}

TEST_F(PreferenceRun, RefusesCorporaOfTheOtherKind) {
  auto run = config();
  run.data.corpus = {corpus_.string()};
  expect_error([&] { train(run, "run"); }, ExitCode::kConfig, "holds no pairs of answers");
  run = tiny_run(pairs_);
  expect_error([&] { train(run, "run"); }, ExitCode::kConfig,
               "holds pairs of a chosen and a rejected answer");
}

TEST_F(PreferenceRun, TellsWhichPairsAreLeftOut) {
  auto run = config();
  run.train.max_steps = 2;
  run.train.sequence_length = 10;
  train(run, "run");
  EXPECT_NE(notes_.find("pairs are left out: longer than 10 tokens"), std::string::npos) << notes_;
  run.train.sequence_length = 2;
  expect_error([&] { train(run, "none"); }, ExitCode::kBadData, "none of ");
}

TEST(PreferenceConfig, SaysWhatDoesNotFitTogether) {
  const auto refused = [](const std::string& keys, const char* message) {
    expect_error([&] { parse_run_config(keys, "x.toml"); }, ExitCode::kConfig, message);
  };
  const std::string begin = "[preference]\nmethod = \"dpo\"\n";
  refused(begin, "set train.init_from, or preference.reference");
  refused(begin + "reference = \"m\"\n[train]\nbatch_size = 3\n", "batch_size 3 is odd");
  refused(begin + "reference = \"m\"\n[train]\nmicro_batch_size = 1\n",
          "micro_batch_size 1 is odd");
  refused(begin + "reference = \"m\"\n[distill]\nteacher = \"t\"\n", "leave one of them out");
  refused(begin + "reference = \"m\"\n[data]\npacking = \"bfd\"\n", "leave it at \"wrapped\"");
  refused(begin + "reference = \"m\"\n[data]\ndocument_mask = true\n", "leave it out");
  refused("[preference]\ncache = \"c\"\n", "there is nothing to keep");
  refused("[preference]\nreference = \"m\"\n", "set preference.method");
  refused("[preference]\nmethod = \"ipo\"\n", "preference.method");
}

}  // namespace
}  // namespace kvsmith
