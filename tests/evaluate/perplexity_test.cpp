#include "evaluate/perplexity.h"

#include <cmath>

#include "evaluate/unigram.h"
#include "evaluate/windows.h"
#include "tests/support/close.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

class EvaluateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    loaded_.model = Decoder(tiny_model());
    initialize(*loaded_.model, 8);
    loaded_.model->eval();
  }
  Evaluation run(Protocol protocol, int64_t context, int64_t stride = 0, int64_t max_tokens = 0) {
    EvaluateOptions options;
    options.protocol = protocol;
    options.context = context;
    options.stride = stride;
    options.max_tokens = max_tokens;
    options.batch = 5;
    return evaluate(loaded_, corpus_, options);
  }
  /// One document after the other, one window after the other, nothing batched.
  double naive_nll(int64_t context) {
    const torch::NoGradGuard no_grad;
    const auto split = corpus_.split("valid");
    double nll = 0;
    for (uint64_t d = 0; d < split->documents(); ++d) {
      std::vector<int32_t> ids(split->offset(d + 1) - split->offset(d));
      split->read(split->offset(d), ids);
      const auto all = torch::tensor(ids, torch::kLong);
      for (int64_t first = 0; first + 1 < all.size(0); first += context) {
        const int64_t count = std::min(context, all.size(0) - 1 - first);
        const auto log_p = torch::log_softmax(
            loaded_.model->forward(all.narrow(0, first, count).unsqueeze(0))[0], -1);
        nll -= log_p.gather(1, all.narrow(0, first + 1, count).unsqueeze(1)).sum().item<double>();
      }
    }
    return nll;
  }

  TemporaryDirectory directory_;
  Corpus corpus_ = Corpus::open(tiny_corpus(directory_ / "c.h5"));
  LoadedModel loaded_;
};

TEST_F(EvaluateTest, BothProtocolsEqualTheNaiveSum) {
  for (const int64_t context : {1, 7, 32, 128}) {
    const double want = naive_nll(context);
    EXPECT_NEAR(run(Protocol::kParallel, context).nll, want, 1e-4 * want) << context;
    EXPECT_NEAR(run(Protocol::kDecode, context).nll, want, 1e-4 * want) << context;
  }
}

TEST_F(EvaluateTest, ScoresEveryTokenButTheFirstOfEachDocumentOnce) {
  const auto split = corpus_.split("valid");
  const auto expected = static_cast<int64_t>(split->tokens() - split->documents());
  for (const auto& [context, stride] :
       std::vector<std::pair<int64_t, int64_t>>{{16, 16}, {16, 5}, {128, 1}, {3, 2}}) {
    const auto result = run(Protocol::kParallel, context, stride);
    EXPECT_EQ(result.tokens, expected) << context << "/" << stride;
    EXPECT_EQ(result.documents, split->documents());
  }
}

TEST_F(EvaluateTest, MeasuredBytesAreThoseOfTheFormulaAtTheWindow) {
  const auto result = run(Protocol::kDecode, 48);
  EXPECT_EQ(result.cache.tokens, 48);
  EXPECT_EQ(result.cache.bytes_used, kv_cache_bytes(loaded_.model->config(), 48, 4));
  EXPECT_EQ(result.cache_lengths->at_8k.bytes_used,
            kv_cache_bytes(loaded_.model->config(), 8192, 4));
  EXPECT_GE(result.cache_bytes_peak, result.cache.bytes_used);
  EXPECT_LT(result.decode_vs_parallel, 1e-4);
}

TEST_F(EvaluateTest, LeavesLengthsOutWhereAsked) {
  const auto result = evaluate(loaded_, corpus_, {.context = 16, .measures_lengths = false});
  const auto json = to_json(result, loaded_, "c.h5");
  EXPECT_FALSE(json["cache"].contains("bytes_at_8k"));
  EXPECT_FALSE(json["cache"].contains("lengths"));
  EXPECT_EQ(json["cache"]["bytes_measured"], kv_cache_bytes(loaded_.model->config(), 16, 4));
}

TEST_F(EvaluateTest, PassesComeToTheLossOfDecoding) {
  loaded_.model = Decoder(tiny_model(2, [](ModelConfig& c) {
    c.num_hidden_layers = 6;
    c.pattern = "lckv";
  }));
  initialize(*loaded_.model, 8);
  loaded_.model->eval();
  constexpr int64_t kContext = 24;
  EvaluateOptions options{.context = kContext, .batch = 5, .passes = {0, 4, kContext - 2}};
  const auto result = evaluate(loaded_, corpus_, options);
  EXPECT_EQ(loaded_.model->config().forward_passes, 7) << "left as it was";
  ASSERT_EQ(result.passes.size(), 3U);
  const auto off = [&](size_t i) { return std::abs(result.passes[i].nll - result.nll); };
  EXPECT_GT(off(0), 2 * off(1));
  EXPECT_GT(off(1), 2 * off(2));
  EXPECT_LT(off(2), 1e-5 * result.nll);
  const auto json = to_json(result, loaded_, "c.h5");
  EXPECT_EQ(json["passes"][1]["forward_passes"], 4);

  loaded_.model = Decoder(tiny_model());
  expect_error([&] { evaluate(loaded_, corpus_, options); }, ExitCode::kUsage,
               "leave --passes out");
}

TEST_F(EvaluateTest, StopsAtMaxTokensAndUsesTheSameTokensInBothProtocols) {
  const auto a = run(Protocol::kDecode, 16, 0, 100), b = run(Protocol::kParallel, 16, 0, 100);
  EXPECT_EQ(a.tokens, 100);
  EXPECT_NEAR(a.nll, b.nll, 1e-3);
}

TEST_F(EvaluateTest, RefusesBadOptions) {
  expect_error([&] { run(Protocol::kDecode, -1); }, ExitCode::kUsage, "context -1");
  expect_error([&] { run(Protocol::kDecode, 8, 9); }, ExitCode::kUsage, "stride 9");
  expect_error([&] { run(Protocol::kDecode, 8, 0, -1); }, ExitCode::kUsage, "max_tokens -1");
  expect_error([] { protocol_of("decod"); }, ExitCode::kUsage, "did you mean \"decode\"?");
}

TEST_F(EvaluateTest, RefusesRecallThatCannotBeBeforeAnythingIsScored) {
  bool has_scored = false;
  const auto recall = [&](int64_t context) {
    evaluate(loaded_, corpus_, {.context = context, .recall = true},
             [&](int64_t, int64_t) { has_scored = true; });
  };
  expect_error([&] { recall(21); }, ExitCode::kUsage, "of at most 21 tokens");
  loaded_.model = Decoder(tiny_model(2, [](auto& c) { c.max_position_embeddings = 4096; }));
  expect_error([&] { recall(0); }, ExitCode::kBadData, "a sample 4096");
  EXPECT_FALSE(has_scored);
}

TEST_F(EvaluateTest, RefusesACorpusWithMoreTokenIdsThanTheModel) {
  auto config = tiny_model();
  config.vocab_size = 50;
  loaded_.model = Decoder(config);
  initialize(*loaded_.model, 1);
  expect_error([&] { run(Protocol::kDecode, 8); }, ExitCode::kConfig, "67 token ids, the model 50");
}

TEST_F(EvaluateTest, NanWeightsAreAnErrorNotAResult) {
  {
    const torch::NoGradGuard no_grad;
    loaded_.model->parameters()[0].fill_(NAN);
  }
  expect_error([&] { run(Protocol::kParallel, 16); }, ExitCode::kNumerical, "not finite");
}

TEST_F(EvaluateTest, UnigramLossesAreThoseOfSmoothedCounts) {
  const auto split = corpus_.split("train");
  const auto losses = unigram_losses(*split, 67);
  double mass = 0;
  for (const double loss : losses) mass += std::exp(-loss);
  EXPECT_NEAR(mass, 1, 1e-9);
  // one begin-of-text a document
  const double want =
      (static_cast<double>(split->documents()) + 1) / (static_cast<double>(split->tokens()) + 67);
  EXPECT_NEAR(std::exp(-losses[1]), want, 1e-12);
}

TEST_F(EvaluateTest, JsonHasTheKeysThatScriptsRelyOn) {
  const auto json = to_json(run(Protocol::kDecode, 16), loaded_, "c.h5");
  for (const char* key :
       {"perplexity", "nll_per_token", "bits_per_byte", "tokens", "context", "protocol", "cache",
        "decode_vs_parallel_max_abs_diff", "tokens_per_second", "checkpoint", "corpus"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  for (const char* key : {"bytes_measured", "bytes_formula", "bytes_per_token", "dtype"})
    EXPECT_TRUE(json["cache"].contains(key)) << key;
  EXPECT_NEAR(json["perplexity"].get<double>(), std::exp(json["nll_per_token"].get<double>()),
              1e-9);
}

}  // namespace
}  // namespace kvsmith
