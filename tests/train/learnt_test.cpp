// Training on corpora that mark what is to be learnt: nothing else has any part in the gradient.
#include <cmath>

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "tests/support/close.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"
#include "train/trainer.h"

namespace kvsmith {
namespace {

constexpr int64_t kLength = 16;

/// One token and whether it is learnt.
struct Marked {
  int32_t id;
  bool is_learnt;
};

/// Tokens for `windows` sequences and a last target, of which a stretch in each is learnt.
std::vector<Marked> marked_tokens(int64_t windows) {
  std::vector<Marked> tokens;
  for (int64_t i = 0; i <= windows * kLength; ++i) {
    const auto id = static_cast<int32_t>(3 + hash_of(5, "token", i) % 64);
    tokens.push_back({id, i % kLength >= 6 && i % kLength < 11});
  }
  return tokens;
}

/// A model and a trainer of batches of two sequences on these tokens.
struct Bench {
  explicit Bench(const std::vector<Marked>& tokens, int64_t micro_batch = 0) {
    at::set_num_threads(1);
    CorpusInfo info;
    info.vocab_size = 67;
    info.marks_learnt = true;
    CorpusWriter writer(directory / "c.h5", info);
    std::vector<int32_t> ids;
    std::vector<uint8_t> learnt;
    for (const Marked& token : tokens) {
      ids.push_back(token.id);
      learnt.push_back(token.is_learnt ? 1 : 0);
    }
    writer.append("train", ids, learnt);
    writer.end_document("train", ids.size());
    writer.finish();
    config = tiny_run(directory / "c.h5");
    config.train.batch_size = 2;
    config.train.micro_batch_size = micro_batch;
    config.train.max_grad_norm = 0;
    split = Corpus::open(directory / "c.h5").split("train");
    stream = std::make_unique<BatchStream>(std::vector<WeightedSplit>{{split, 1.0}},
                                           BatchOptions{.length = kLength, .shuffle = false},
                                           config.train.micro_batch());
    model = Decoder(config.model);
    initialize(*model, 3);
    trainer = std::make_unique<Trainer>(config, model, *stream);
  }

  double validation_loss(int64_t max_tokens) const {
    const WindowSource source({{split}}, {.length = kLength, .shuffle = false});
    return trainer->validate(source, max_tokens).loss;
  }

  TemporaryDirectory directory;
  RunConfig config;
  std::shared_ptr<const CorpusSplit> split;
  std::unique_ptr<BatchStream> stream;
  Decoder model{nullptr};
  std::unique_ptr<Trainer> trainer;
};

/// The mean loss of the learnt tokens alone, from all logits and token by token.
at::Tensor loss_by_hand(DecoderImpl& model, const std::vector<Marked>& tokens, int64_t windows) {
  at::Tensor sum = torch::zeros({});
  int64_t count = 0;
  for (int64_t window = 0; window < windows; ++window) {
    std::vector<int64_t> inputs;
    for (int64_t i = 0; i < kLength; ++i)
      inputs.push_back(tokens[static_cast<size_t>(window * kLength + i)].id);
    const auto log_p = torch::log_softmax(model.forward(torch::tensor(inputs).unsqueeze(0))[0], -1);
    for (int64_t i = 0; i < kLength; ++i) {
      const Marked& next = tokens[static_cast<size_t>(window * kLength + i + 1)];
      if (!next.is_learnt) continue;
      sum = sum - log_p[i][next.id];
      ++count;
    }
  }
  return sum / static_cast<double>(count);
}

TEST(LearntTokens, AloneMakeTheLossAndItsGradient) {
  const auto tokens = marked_tokens(2);
  for (const int64_t micro_batch : {2, 1}) {
    Bench bench(tokens, micro_batch);
    Decoder other(bench.config.model);
    initialize(*other, 3);
    const auto want = loss_by_hand(*other, tokens, 2);
    want.backward();
    const auto report = bench.trainer->step();
    EXPECT_NEAR(report.loss, want.item<double>(), 1e-5);
    for (const auto& item : bench.model->named_parameters()) {
      EXPECT_TRUE(close(item.value().grad(), other->named_parameters()[item.key()].grad(), 1e-6))
          << item.key();
    }
  }
}

TEST(LearntTokens, OthersHaveNoGradientAsTargets) {
  // The last token of all is a target and nothing's input.
  const auto gradients = [](const std::vector<Marked>& tokens) {
    Bench bench(tokens);
    bench.trainer->step();
    std::vector<at::Tensor> all;
    for (const auto& parameter : bench.model->parameters()) all.push_back(parameter.grad().clone());
    return all;
  };
  auto tokens = marked_tokens(2);
  const auto differ = [&](bool is_learnt) {
    tokens.back().is_learnt = is_learnt;
    tokens.back().id = 5;
    const auto before = gradients(tokens);
    tokens.back().id = 6;
    const auto after = gradients(tokens);
    bool differs = false;
    for (size_t i = 0; i < before.size(); ++i) differs |= !torch::equal(before[i], after[i]);
    return differs;
  };
  EXPECT_FALSE(differ(false));
  EXPECT_TRUE(differ(true));
}

TEST(LearntTokens, WhatFollowsTheLastOfThemHasNoGradientAtAll) {
  // Nothing that is learnt sees what comes after it, whether as a target or as an input.
  auto tokens = marked_tokens(2);
  Bench before(tokens);
  for (size_t i = 11; i < kLength; ++i) tokens[i].id = tokens[i].id == 7 ? 8 : 7;
  Bench after(tokens);
  EXPECT_NEAR(before.trainer->step().loss, after.trainer->step().loss, 1e-6);
  for (const auto& item : before.model->named_parameters()) {
    EXPECT_TRUE(
        close(after.model->named_parameters()[item.key()].grad(), item.value().grad(), 1e-6))
        << item.key();
  }
}

TEST(LearntTokens, AMicroBatchWithoutThemAddsNothing) {
  auto tokens = marked_tokens(2);
  for (size_t i = kLength; i < tokens.size(); ++i) tokens[i].is_learnt = false;
  Bench whole(tokens, 2), parts(tokens, 1);
  const auto a = whole.trainer->step(), b = parts.trainer->step();
  EXPECT_GT(a.loss, 1);
  EXPECT_NEAR(a.loss, b.loss, 1e-6);
  EXPECT_NEAR(a.grad_norm, b.grad_norm, 1e-6);
}

TEST(LearntTokens, AStepWithoutThemHasNoLossAndNoGradient) {
  auto tokens = marked_tokens(2);
  for (auto& token : tokens) token.is_learnt = false;
  Bench bench(tokens, 1);
  const auto report = bench.trainer->step();
  EXPECT_EQ(report.loss, 0);
  EXPECT_EQ(report.grad_norm, 0);
  EXPECT_FALSE(report.skipped);
  for (const auto& item : bench.model->named_parameters()) {
    EXPECT_EQ(item.value().grad().abs().max().item<double>(), 0) << item.key();
    EXPECT_TRUE(item.value().isfinite().all().item<bool>()) << item.key();
  }
}

TEST(LearntTokens, AloneAreValidated) {
  const auto tokens = marked_tokens(4);
  Bench bench(tokens);
  const torch::NoGradGuard no_grad;
  EXPECT_NEAR(bench.validation_loss(0), loss_by_hand(*bench.model, tokens, 4).item<double>(), 1e-5);
  EXPECT_NEAR(bench.validation_loss(kLength), loss_by_hand(*bench.model, tokens, 1).item<double>(),
              1e-5);
  auto late = tokens;
  for (size_t i = 0; i <= kLength; ++i) late[i].is_learnt = false;
  Bench other(late);
  expect_error([&] { other.validation_loss(kLength); }, ExitCode::kBadData,
               "nothing is marked as learnt in the first 16 tokens of validation");
  EXPECT_GT(other.validation_loss(2 * kLength), 1);
}

}  // namespace
}  // namespace kvsmith
