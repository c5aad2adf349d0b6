#include "evaluate/probes.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include <gtest/gtest.h>
#include <torch/types.h>

#include "core/text.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

using Tokens = std::vector<int64_t>;

constexpr int64_t kVocabulary = 67;

/// Any token but 0 to 2.
ProbeText random_text() {
  Tokens symbols(kVocabulary - 3);
  std::iota(symbols.begin(), symbols.end(), 3);
  return ProbeText(symbols, /*bos_id=*/1);
}

Tokens slice(const Tokens& tokens, int64_t first, int64_t count) {
  return {tokens.begin() + first, tokens.begin() + first + count};
}

/// Where `part` occurs in `tokens`.
Tokens places_of(const Tokens& part, const Tokens& tokens) {
  Tokens out;
  for (int64_t at = 0; at + std::ssize(part) <= std::ssize(tokens); ++at)
    if (slice(tokens, at, std::ssize(part)) == part) out.push_back(at);
  return out;
}

/// How much of the end of `text` also stands before `place`.
int64_t common_suffix(const Tokens& text, int64_t place) {
  int64_t count = 0;
  while (count < place && text[static_cast<size_t>(place - 1 - count)] ==
                              text[text.size() - 1 - static_cast<size_t>(count)])
    ++count;
  return count;
}

/// A perfect memory without any knowledge: expects what followed the longest earlier occurrence of
/// the end of the text.
OpenReader induction_oracle() {
  return [](int64_t batch, int64_t) {
    return
        [texts = std::vector<Tokens>(static_cast<size_t>(batch))](const at::Tensor& next) mutable {
          auto logits = torch::zeros({next.size(0), kVocabulary});
          for (int64_t b = 0; b < next.size(0); ++b) {
            Tokens& text = texts[static_cast<size_t>(b)];
            for (int64_t i = 0; i < next.size(1); ++i) text.push_back(next[b][i].item<int64_t>());
            int64_t best = 0, follows = 0;
            for (int64_t place = 1; place < std::ssize(text); ++place) {
              const int64_t common = common_suffix(text, place);
              if (common > best) best = common, follows = text[static_cast<size_t>(place)];
            }
            if (best > 0) logits[b][follows] = 20;
          }
          return logits;
        };
  };
}

OpenReader through_own_cache(Decoder& model, bool prefill) {
  return through_cache(
      *model, [&](const CacheOptions& options) { return model->make_cache(options); }, prefill);
}

Decoder random_model(const std::function<void(ModelConfig&)>& change = {}) {
  Decoder model(tiny_model(2, change));
  initialize(*model, 5);
  model->eval();
  return model;
}

TEST(ProbeSamples, AreTheSameOnEveryMachine) {
  const auto text = random_text();
  for (const ProbeTask& task : probe_tasks()) {
    SCOPED_TRACE(task.name);
    const auto make = [&](uint64_t seed, uint64_t index) {
      ProbeOptions options;
      options.seed = seed;
      return make_sample(task, text, options, 100, 0.5, index).tokens;
    };
    EXPECT_EQ(make(3, 7), make(3, 7));
    EXPECT_NE(make(3, 7), make(3, 8));
    EXPECT_NE(make(3, 7), make(4, 7));
  }
  const auto sample = make_sample(probe_task("passkey"), text, {}, 24, 0.5, 0);
  EXPECT_EQ(sample.tokens, (Tokens{1,  59, 27, 56, 3, 7,  50, 45, 36, 60, 23, 30,
                                   61, 57, 18, 32, 7, 50, 45, 36, 60, 23, 30, 61}));
}

TEST(ProbeSamples, OnlyTheFactTellsTheAnswer) {
  const TemporaryDirectory directory;
  const Corpus corpus = Corpus::open(tiny_corpus(directory / "c.h5"));
  for (const ProbeText& text : {random_text(), ProbeText::of_corpus(corpus, "valid")}) {
    for (const ProbeTask& task : probe_tasks()) {
      for (const double depth : {0.0, 0.3, 1.0}) {
        for (const int64_t length : {60, 119}) {
          SCOPED_TRACE(cat(task.name, " at ", depth, " of ", length));
          const auto sample = make_sample(task, text, {}, length, depth, 9);
          ASSERT_EQ(std::ssize(sample.tokens), length);
          ASSERT_EQ(std::ssize(sample.control), length);
          EXPECT_EQ(sample.tokens[0], 1);
          EXPECT_EQ(std::ranges::count(sample.tokens, 1), 1);
          EXPECT_EQ(std::ranges::count(sample.tokens, 2), 0);
          EXPECT_EQ(sample.answers.back().end(), length);
          // the control lacks one piece, and what the piece held
          const auto first =
              std::ranges::mismatch(sample.tokens, sample.control).in1 - sample.tokens.begin();
          int64_t end = length;
          while (sample.tokens[end - 1] == sample.control[end - 1]) --end;
          EXPECT_LT(end, sample.answer_from());
          const Tokens fact = slice(sample.tokens, first, end - first);
          for (const TokenSpan& answer : sample.answers) {
            const Tokens wanted = slice(sample.tokens, answer.first, answer.count);
            EXPECT_FALSE(places_of(wanted, fact).empty());
            // a value of the small alphabet may stand in another record too
            if (task.name == "kv_retrieval") continue;
            EXPECT_EQ(places_of(wanted, sample.control), (Tokens{answer.first}));
          }
        }
      }
    }
  }
}

TEST(ProbeSamples, PasskeysLieAtTheDepthThatIsAsked) {
  ProbeOptions options;
  options.key_tokens = 3;
  constexpr int64_t kLength = 101, kSpace = kLength - 1 - 7 - 7;
  const Tokens before = {0, 22, 43, 65, 86};
  for (size_t i = 0; i < before.size(); ++i) {
    const double depth = options.depths[i];
    const auto sample =
        make_sample(probe_task("passkey"), random_text(), options, kLength, depth, 1);
    const Tokens phrase_and_key = slice(sample.tokens, kLength - 7, 7);
    EXPECT_EQ(places_of(phrase_and_key, sample.tokens), (Tokens{1 + before[i], kLength - 7}));
    EXPECT_EQ(sample.distance, kSpace - before[i]);
    ASSERT_EQ(sample.answers.size(), 1u);
    EXPECT_EQ(sample.answers[0].first, kLength - 3);
    for (const int64_t token : phrase_and_key)
      EXPECT_EQ(std::ranges::count(sample.tokens, token), 2);
  }
}

TEST(ProbeSamples, MqarAsksEveryPairOnceInAnotherOrder) {
  ProbeOptions options;
  options.pairs = 6;
  const auto sample = make_sample(probe_task("mqar"), random_text(), options, 80, 0.25, 4);
  ASSERT_EQ(sample.answers.size(), 6u);
  Tokens order;
  for (const TokenSpan& answer : sample.answers) {
    EXPECT_EQ(answer.count, 1);
    const auto found = places_of(slice(sample.tokens, answer.first - 1, 2), sample.tokens);
    ASSERT_EQ(found.size(), 2u);
    EXPECT_EQ(found[1], answer.first - 1);
    order.push_back(found[0]);
    for (const int64_t at : {answer.first - 1, answer.first})
      EXPECT_EQ(std::ranges::count(sample.tokens, sample.tokens[at]), 2);
  }
  EXPECT_FALSE(std::ranges::is_sorted(order));
  std::ranges::sort(order);
  const int64_t begin = 1 + 14;  // a quarter of 55, the filler's tokens
  EXPECT_EQ(order, (Tokens{begin, begin + 2, begin + 4, begin + 6, begin + 8, begin + 10}));
}

TEST(ProbeSamples, CopyRepeatsASegmentOfDifferentTokens) {
  ProbeOptions options;
  options.segment = 10;
  const auto sample = make_sample(probe_task("copy"), random_text(), options, 61, 0.5, 2);
  const Tokens segment = slice(sample.tokens, 51, 10);
  EXPECT_EQ(std::set(segment.begin(), segment.end()).size(), 10u);
  EXPECT_EQ(places_of(segment, sample.tokens), (Tokens{21, 51}));
  EXPECT_EQ(sample.distance, 20);
  EXPECT_EQ(sample.answers[0].first, 52);  // nothing tells the first token
  EXPECT_EQ(sample.answers[0].count, 9);
}

TEST(ProbeSamples, RecordsHaveDifferentKeysAndFillTheText) {
  ProbeOptions options;
  options.key_tokens = 2;
  constexpr int64_t kLength = 100, kRecord = 6, kRecords = 15;  // 16 with the question
  const struct {
    double depth;
    int64_t asked;
  } cases[] = {{0, 0}, {0.5, 7}, {1, kRecords - 1}};
  for (const auto& c : cases) {
    const auto sample =
        make_sample(probe_task("kv_retrieval"), random_text(), options, kLength, c.depth, 3);
    const int64_t open = sample.tokens[kLength - kRecord];
    const Tokens starts = places_of({open}, sample.tokens);
    ASSERT_EQ(std::ssize(starts), kRecords + 1);
    std::set<Tokens> keys;
    for (int64_t i = 0; i < kRecords; ++i) {
      EXPECT_EQ(starts[i + 1] - starts[i] >= kRecord, true);
      EXPECT_EQ(sample.tokens[starts[i] + 3], sample.tokens[kLength - kRecord + 3]);
      keys.insert(slice(sample.tokens, starts[i] + 1, 2));
    }
    EXPECT_EQ(std::ssize(keys), kRecords);
    const auto found = places_of(slice(sample.tokens, kLength - kRecord, kRecord), sample.tokens);
    EXPECT_EQ(found, (Tokens{starts[c.asked], kLength - kRecord}));
    EXPECT_EQ(sample.distance, kLength - kRecord - starts[c.asked] - kRecord);
  }
}

TEST(ProbeSamples, RefuseWhatCannotBe) {
  const auto make = [](const char* task, const ProbeOptions& options, int64_t length,
                       double depth = 0, const ProbeText& text = random_text()) {
    make_sample(probe_task(task), text, options, length, depth, 0);
  };
  ProbeOptions options;
  make("passkey", options, 17);
  expect_error([&] { make("passkey", options, 16); }, ExitCode::kUsage, "at least 17 are needed");
  expect_error([&] { make("kv_retrieval", options, 30); }, ExitCode::kUsage,
               "at least 31 are needed");
  expect_error([&] { make("passkey", options, 40, 1.5); }, ExitCode::kUsage, "depth 1.5");
  expect_error([] { probe_task("paskey"); }, ExitCode::kUsage, "did you mean \"passkey\"?");
  options.pairs = 40;
  expect_error([&] { make("mqar", options, 200); }, ExitCode::kUsage,
               "80 different tokens, of 64 that there are");
  const ProbeText few({3, 4, 5, 6, 7, 8, 9, 10});
  expect_error([&] { make("passkey", {}, 20, 0, few); }, ExitCode::kBadData,
               "no tokens are left to fill");
}

TEST(ProbeScores, APerfectMemoryKnowsEveryAnswerAndNoneWithoutTheFact) {
  const TemporaryDirectory directory;
  const Corpus corpus = Corpus::open(tiny_corpus(directory / "c.h5"));
  ProbeOptions options;
  options.lengths = {60, 100};
  options.depths = {0, 0.6, 1};
  options.samples = 5;
  options.batch = 2;
  for (const ProbeText& text : {random_text(), ProbeText::of_corpus(corpus, "train")}) {
    for (const ProbeTask& task : probe_tasks()) {
      const auto points = run_probe(task, text, options, induction_oracle());
      ASSERT_EQ(points.size(), 6u);
      EXPECT_EQ(points[1].length, 60);
      EXPECT_EQ(points[1].depth, 0.6);
      EXPECT_EQ(points[3].length, 100);
      for (const ProbePoint& point : points) {
        SCOPED_TRACE(cat(point.task, " at ", point.depth, " of ", point.length));
        EXPECT_EQ(point.samples, 5);
        EXPECT_EQ(point.score.exact_match, 1);
        EXPECT_EQ(point.score.token_accuracy, 1);
        EXPECT_NEAR(point.score.nll, 0, 1e-4);
        EXPECT_GT(point.gain(), 4);
      }
    }
  }
}

TEST(ProbeScores, CountAnswersAndTokens) {
  // says 5 after everything, with p = 1/2
  const OpenReader five = [](int64_t, int64_t) {
    return [](const at::Tensor& next) {
      auto logits = torch::zeros({next.size(0), 6});
      logits.select(1, 5).fill_(std::log(5.0));
      return logits;
    };
  };
  const std::vector<ProbeSample> samples = {
      {.tokens = {0, 5, 5, 1, 5}, .control = {}, .answers = {{1, 2}, {4, 1}}},
      {.tokens = {0, 1, 5, 5, 5}, .control = {}, .answers = {{2, 2}}},
      {.tokens = {0, 5, 3, 5, 3}, .control = {}, .answers = {{1, 4}}}};
  const ProbeScore score = score_answers(samples, five, 2);
  EXPECT_DOUBLE_EQ(score.exact_match, 3.0 / 4);
  EXPECT_DOUBLE_EQ(score.token_accuracy, 7.0 / 9);
  EXPECT_NEAR(score.nll, (7 * std::log(2.0) + 2 * std::log(10.0)) / 9, 1e-6);
}

TEST(ProbeScores, ARandomModelKnowsNothingWhicheverWayItReads) {
  for (const char* kind : {"full", "sliding"}) {
    Decoder model = random_model([&](ModelConfig& config) {
      config.layer_types = {kind};
      config.sliding_window = 9;
    });
    ProbeOptions options;
    options.lengths = {60};
    options.depths = {0.5};
    options.samples = 6;
    options.batch = 3;
    for (const ProbeTask& task : probe_tasks()) {
      SCOPED_TRACE(cat(task.name, " of ", kind));
      const auto at_once =
          run_probe(task, random_text(), options, through_own_cache(model, /*prefill=*/true))[0];
      const auto one_by_one =
          run_probe(task, random_text(), options, through_own_cache(model, /*prefill=*/false))[0];
      EXPECT_NEAR(at_once.score.nll, one_by_one.score.nll, 1e-4);
      EXPECT_NEAR(at_once.nll_without, one_by_one.nll_without, 1e-4);
      EXPECT_EQ(at_once.score.token_accuracy, one_by_one.score.token_accuracy);
      EXPECT_NEAR(at_once.score.nll, std::log(kVocabulary), 2);
      EXPECT_LT(at_once.score.token_accuracy, 0.2);
      EXPECT_LT(at_once.score.exact_match, 0.2);
      EXPECT_NEAR(at_once.gain(), 0, 1);
    }
  }
}

TEST(ProbeScores, AWindowDoesNotSeeAFactOutsideIt) {
  Decoder model = random_model([](ModelConfig& config) {
    config.layer_types = {"sliding"};
    config.sliding_window = 4;
  });
  ProbeOptions options;
  options.lengths = {100};
  options.depths = {0, 1};
  options.samples = 4;
  const auto points =
      run_probe(probe_task("passkey"), random_text(), options, through_own_cache(model, true));
  EXPECT_NEAR(points[0].gain(), 0, 1e-5);  // two layers of 4 see 7 tokens
  EXPECT_GT(std::abs(points[1].gain()), 1e-3);
}

TEST(ProbeScores, EveryBatchHasACacheOfItsOwn) {
  Decoder model = random_model();
  std::vector<int64_t> batches;
  const auto make_cache = [&](const CacheOptions& cache) {
    EXPECT_EQ(cache.initial_rows, 40);
    batches.push_back(cache.batch);
    return model->make_cache(cache);
  };
  ProbeOptions options;
  options.lengths = {40};
  options.depths = {0.5};
  options.samples = 5;
  options.batch = 3;
  const auto open = through_cache(*model, make_cache, /*prefill=*/true);
  const auto points = run_probe(probe_task("passkey"), random_text(), options, open);
  EXPECT_EQ(batches, (std::vector<int64_t>{3, 2, 3, 2}));
  options.batch = 1;
  const auto alone = run_probe(probe_task("passkey"), random_text(), options, open);
  EXPECT_NEAR(points[0].score.nll, alone[0].score.nll, 1e-5);

  const auto json = probe_json(points);
  ASSERT_EQ(json.size(), 1u);
  EXPECT_EQ(json[0]["task"], "passkey");
  EXPECT_EQ(json[0]["gain"], points[0].gain());
  for (const char* key : {"length", "depth", "distance", "samples", "nll", "nll_without",
                          "exact_match", "token_accuracy"}) {
    EXPECT_TRUE(json[0].contains(key)) << key;
  }
}

}  // namespace
}  // namespace kvsmith
