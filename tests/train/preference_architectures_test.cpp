// Every kind of layer and every pattern learns preferences, from where there are none.
#include <cmath>

#include <gtest/gtest.h>

#include "tests/support/history.h"
#include "tests/support/layer_cases.h"
#include "tests/train/pair_runs.h"

namespace kvsmith {
namespace {

class PreferredArchitecture : public TrainingRuns,
                              public ::testing::WithParamInterface<LayerCase> {};

TEST_P(PreferredArchitecture, BeginsAtItsReferenceAndContinuesExactly) {
  RunConfig base = tiny_run(corpus_);
  base.model = GetParam().config;
  base.train.sequence_length = 31;
  base.train.max_steps = 2;
  base.train.checkpoint_every = 0;
  train(base, "base");
  RunConfig run = base;
  run.data.corpus = {tiny_pairs(directory_ / "pairs.h5").string()};
  run.train.init_from = (directory_ / "base").string();
  run.train.micro_batch_size = 2;
  run.train.max_steps = 4;
  run.preference.method = "dpo";
  const RunResult result = train(run, "whole");
  EXPECT_TRUE(std::isfinite(result.last.grad_norm));
  EXPECT_GT(result.last.grad_norm, 0);
  const auto first = nlohmann::json::parse(history(directory_ / "whole").front());
  // no kind computes otherwise when it has to keep a graph, but for the rounding
  EXPECT_NEAR(first.at("loss").get<double>(), std::log(2.0), 1e-6);
  EXPECT_NEAR(first.at("rewards/margins").get<double>(), 0, 1e-6);
  train(run, "parts", 2);
  train(run, "parts");
  EXPECT_EQ(file("parts", "model.safetensors"), file("whole", "model.safetensors"));
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         PreferredArchitecture,
                         ::testing::ValuesIn(layer_cases()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace kvsmith
