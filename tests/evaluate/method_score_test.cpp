#include <gtest/gtest.h>

#include "cache/cache_options.h"
#include "evaluate/perplexity.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

class MethodScoring : public ::testing::Test {
 protected:
  MethodScoring() {
    model_.model = Decoder(tiny_model());
    initialize(*model_.model, 4);
    model_.model->eval();
  }

  Evaluation run(const std::vector<std::string>& cache,
                 Protocol protocol = Protocol::kDecode,
                 const std::function<void(EvaluateOptions&)>& change = {}) {
    EvaluateOptions options;
    options.context = 32;
    options.max_tokens = 400;
    options.protocol = protocol;
    if (!cache.empty()) options.cache = cache_config_of(cache);
    if (change) change(options);
    return evaluate(model_, corpus_, options);
  }

  TemporaryDirectory directory_;
  Corpus corpus_ = Corpus::open(tiny_corpus(directory_ / "corpus.h5"));
  LoadedModel model_;
};

const std::vector<std::string> kStreaming = {"window", "budget_tokens=12", "protect_sinks=2"};

TEST(StepLengths, BeginWithThePrefillAndCoverTheText) {
  EXPECT_EQ(step_lengths(4, 0, 1), (std::vector<int64_t>{1, 1, 1, 1}));
  EXPECT_EQ(step_lengths(5, 3, 1), (std::vector<int64_t>{3, 1, 1}));
  EXPECT_EQ(step_lengths(7, 0, 3), (std::vector<int64_t>{3, 3, 1}));
  EXPECT_EQ(step_lengths(2, 3, 1), (std::vector<int64_t>{2}));
}

TEST_F(MethodScoring, WithRoomForEverythingIsTheFullCache) {
  const auto full = run({}), managed = run({"h2o", "budget_tokens=32"});
  EXPECT_NEAR(managed.nll, full.nll, 1e-5 * full.nll);
  const auto json = managed.method->json();
  EXPECT_NEAR(json["perplexity_full"].get<double>(), std::exp(full.nll_per_token()), 1e-4);
  EXPECT_NEAR(json["kl_to_full"].get<double>(), 0, 1e-6);
  EXPECT_EQ(json["top1_agreement"], 1);
  // windows of a batch are told apart, whatever their number
  const auto alone =
      run({"h2o", "budget_tokens=12"}, Protocol::kDecode, [](auto& o) { o.batch = 1; });
  const auto many =
      run({"h2o", "budget_tokens=12"}, Protocol::kDecode, [](auto& o) { o.batch = 7; });
  EXPECT_NEAR(many.nll, alone.nll, 1e-5 * alone.nll);
  EXPECT_NEAR(many.method->json()["perplexity_full"].get<double>(),
              alone.method->json()["perplexity_full"].get<double>(), 1e-4);
  EXPECT_EQ(managed.tokens, full.tokens);
}

TEST_F(MethodScoring, CountsBytesAsTheyAre) {
  const auto json = run({"h2o", "budget_tokens=12"}).method->json();
  const auto& resident = json["resident"];
  // 2 layers, 2 heads, 8 + 8 fp32 numbers, position and score
  constexpr int64_t kRow = 2 * 2 * (64 + 8);
  EXPECT_EQ(resident["max_bytes"], 12 * kRow);
  EXPECT_EQ(resident["payload"], 12 * 2 * 2 * 64);
  EXPECT_EQ(resident["index"], 12 * 2 * 2 * 4);
  EXPECT_EQ(resident["policy_state"], 12 * 2 * 2 * 4);
  EXPECT_EQ(resident["reserved"], 13 * kRow);
  EXPECT_LT(resident["mean_bytes"], 12 * kRow);
  EXPECT_GE(resident["peak_bytes"], 13 * kRow);
  EXPECT_LT(resident["read_bytes_per_token"], resident["mean_bytes"]);
  EXPECT_EQ(json["method"]["name"], "h2o 12");
  EXPECT_EQ(json["nll_by_position"].back()["from"], 32);
}

TEST_F(MethodScoring, ReplayGivesTheLossOfDecoding) {
  const auto decoded = run({"tova", "budget_tokens=14"}),
             replayed = run({"tova", "budget_tokens=14"}, Protocol::kReplay);
  EXPECT_NEAR(replayed.nll, decoded.nll, 1e-5 * decoded.nll);
  EXPECT_LT(replayed.replay_vs_decode, 1e-5);
  expect_error([&] { run({"tova", "int8"}, Protocol::kReplay); }, ExitCode::kConfig, "as computed");
}

TEST_F(MethodScoring, ChunksOfACodecOfSingleRowsAreExact) {
  const auto decoded = run({"int4"}), chunked = run({"int4"}, Protocol::kChunked);
  EXPECT_NEAR(chunked.nll, decoded.nll, 1e-5 * decoded.nll);
  EXPECT_GT(chunked.method->json()["kl_to_full"], 1e-6);
}

TEST_F(MethodScoring, ScoresAsManyTokensAsAskedBehindPrefills) {
  const auto result = run({}, Protocol::kPrefillContinue, [](auto& options) {
    options.prefill = 24;
    options.max_tokens = 20;
  });
  EXPECT_EQ(result.tokens, 20);
}

TEST_F(MethodScoring, ContinuesAPrefill) {
  const auto result = run({"snapkv", "budget_tokens=10", "protect_recent=3", "protect_sinks=2"},
                          Protocol::kPrefillContinue, [](auto& o) { o.prefill = 20; });
  const auto full = run({}, Protocol::kPrefillContinue, [](auto& o) { o.prefill = 20; });
  EXPECT_EQ(result.tokens, full.tokens);
  EXPECT_LT(result.tokens, run({}).tokens / 2);
  // 20 tokens were cut to 10, and 12 came after them
  EXPECT_EQ(result.method->json()["resident"]["max_bytes"], 22 * 2 * 2 * (64 + 8));
  EXPECT_GT(result.method->json()["kl_to_full"], 0);
}

TEST_F(MethodScoring, RefusesWhatHasNoCacheToWorkOn) {
  expect_error([&] { run(kStreaming, Protocol::kParallel); }, ExitCode::kUsage, "has no cache");
  expect_error([&] { run({"h2o", "kivi2"}); }, ExitCode::kConfig, "none of them can be dropped");
  expect_error([&] { run({"snapkv", "observation_window=4"}); }, ExitCode::kConfig,
               "prefill_continue");
  expect_error([&] { run({"snapkv", "observation_window=4"}, Protocol::kChunked); },
               ExitCode::kConfig, "prefill_continue");
  expect_error([&] { run({"h2o"}, Protocol::kDecode, [](auto& o) { o.recall = true; }); },
               ExitCode::kConfig, "own cache");
  const auto prompt_of_8 = [](auto& options) { options.prefill = 8; };
  expect_error(
      [&] {
        run({"snapkv", "observation_window=4", "budget_tokens=10"}, Protocol::kPrefillContinue,
            prompt_of_8);
      },
      ExitCode::kConfig, "more than 10 tokens");
  expect_error([&] { run({"leankv"}, Protocol::kReplay); }, ExitCode::kConfig, "where they are");
  expect_error([&] { run({"cam"}, Protocol::kReplay); }, ExitCode::kConfig, "merged");
  expect_error([&] { run({"h3o"}); }, ExitCode::kConfig, "did you mean \"h2o\"?");
  expect_error([&] { run({"h2o", "budget_token=3"}); }, ExitCode::kConfig,
               "did you mean \"budget_tokens\"?");
}

}  // namespace
}  // namespace kvsmith
