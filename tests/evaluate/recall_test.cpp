#include "evaluate/recall.h"

#include <cmath>

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

TEST(Recall, MeasuresPassagesNewAndRepeatedAtEveryDistance) {
  const TemporaryDirectory directory;
  const Corpus corpus = Corpus::open(tiny_corpus(directory / "c.h5"));
  Decoder model(tiny_model());
  initialize(*model, 4);
  model->eval();
  const RecallOptions options{.passage = 8, .samples = 4, .longest = 100};
  const auto curve = recall_curve(*model, *corpus.split("train"), options);
  ASSERT_EQ(curve.size(), 3u);
  EXPECT_EQ(curve[0].distance, 0);
  EXPECT_EQ(curve[2].distance, 64);
  for (const auto& point : curve) {
    // an untrained model is about as good at both
    EXPECT_NEAR(point.nll_first, std::log(67), 3);
    EXPECT_NEAR(point.gain(), 0, 2);
    EXPECT_LE(point.accuracy, 0.5);
    EXPECT_EQ(point.nll_first, curve[0].nll_first) << "the same passages at every distance";
  }
  expect_error(
      [&] { recall_curve(*model, *corpus.split("valid"), {.passage = 32, .longest = 1 << 20}); },
      ExitCode::kBadData, "a sample");
  expect_error([&] { recall_curve(*model, *corpus.split("valid"), {.longest = 63}); },
               ExitCode::kUsage, "a --context of at least 64");
}

TEST(Recall, AWindowForgetsWhatLiesOutsideIt) {
  const TemporaryDirectory directory;
  const Corpus corpus = Corpus::open(tiny_corpus(directory / "c.h5"));
  Decoder model(tiny_model(2, [](ModelConfig& config) {
    config.layer_types = {"sliding"};
    config.sliding_window = 4;
  }));
  initialize(*model, 4);
  model->eval();
  // two layers of 4 see 7 tokens: from 64 tokens away a passage is as new as the first time, apart
  // from the tokens just before it
  const RecallOptions options{.passage = 24, .samples = 4, .longest = 120};
  const auto curve = recall_curve(*model, *corpus.split("train"), options);
  EXPECT_NEAR(curve.back().gain(), 0, 0.5);
}

}  // namespace
}  // namespace kvsmith
