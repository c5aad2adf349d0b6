// Of a corpus that marks what is to be learnt, that alone is scored.
#include <cmath>

#include <gtest/gtest.h>

#include "evaluate/perplexity.h"
#include "tests/support/expect_error.h"
#include "tests/support/tiny.h"

namespace kvsmith {
namespace {

struct Marked {
  std::vector<int32_t> ids;
  std::vector<uint8_t> learnt;
};

/// Documents of which every third token is learnt, but for one without any.
std::vector<Marked> marked_documents() {
  std::vector<Marked> documents(4);
  for (size_t d = 0; d < documents.size(); ++d) {
    for (size_t i = 0; i < 20 + 7 * d; ++i) {
      documents[d].ids.push_back(static_cast<int32_t>(3 + hash_of(4, "token", d, i) % 64));
      documents[d].learnt.push_back(d != 1 && i % 3 == 1 ? 1 : 0);
    }
  }
  return documents;
}

Corpus corpus_of(const std::filesystem::path& path, const std::vector<Marked>& documents) {
  CorpusInfo info;
  info.vocab_size = 67;
  info.marks_learnt = true;
  CorpusWriter writer(path, info);
  for (const auto& document : documents) {
    for (const char* split : {"train", "valid"}) {
      writer.append(split, document.ids, document.learnt);
      writer.end_document(split, document.ids.size());
    }
  }
  writer.finish();
  return Corpus::open(path);
}

class EvaluateLearnt : public ::testing::Test {
 protected:
  void SetUp() override {
    loaded_.model = Decoder(tiny_model());
    initialize(*loaded_.model, 8);
    loaded_.model->eval();
  }

  TemporaryDirectory directory_;
  LoadedModel loaded_;
};

TEST_F(EvaluateLearnt, ScoresLearntTokensByEveryProtocol) {
  const auto documents = marked_documents();
  const Corpus corpus = corpus_of(directory_ / "c.h5", documents);
  const torch::NoGradGuard no_grad;
  double want = 0;
  int64_t tokens = 0;
  for (const auto& document : documents) {
    const auto all = torch::tensor(document.ids, torch::kLong);
    const auto log_p = torch::log_softmax(loaded_.model->forward(all.unsqueeze(0))[0], -1);
    for (size_t i = 1; i < document.ids.size(); ++i) {
      if (document.learnt[i] == 0) continue;
      want -= log_p[static_cast<int64_t>(i) - 1][document.ids[i]].item<double>();
      ++tokens;
    }
  }
  for (const Protocol protocol : {Protocol::kParallel, Protocol::kDecode, Protocol::kChunked}) {
    EvaluateOptions options;
    options.protocol = protocol;
    options.context = 64;
    options.chunk = 5;
    options.batch = 1;  // one of them has nothing to score
    options.unigram = true;
    const Evaluation got = evaluate(loaded_, corpus, options);
    EXPECT_EQ(got.tokens, tokens);
    EXPECT_NEAR(got.nll, want, 1e-4 * want);
    ASSERT_TRUE(got.unigram_nll);
    EXPECT_LT(*got.unigram_nll / static_cast<double>(tokens), 2 * std::log(67));
    if (!got.method) continue;
    const auto json = got.method->json();
    for (const auto& end : json["perplexity_interval"])
      EXPECT_TRUE(std::isfinite(end.get<double>()));
  }
}

TEST_F(EvaluateLearnt, RefusesASplitOfWhichNothingIsLearnt) {
  auto documents = marked_documents();
  documents.erase(documents.begin());
  documents.resize(1);
  const Corpus corpus = corpus_of(directory_ / "c.h5", documents);
  EvaluateOptions options;
  options.context = 64;
  expect_error([&] { evaluate(loaded_, corpus, options); }, ExitCode::kBadData,
               "the corpus marks none of these tokens as learnt");
}

}  // namespace
}  // namespace kvsmith
