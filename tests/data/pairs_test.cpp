#include "data/pairs.h"

#include <set>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/data/sample_corpus.h"

namespace kvsmith {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

/// A corpus of pairs of 100 token ids.
std::shared_ptr<const CorpusSplit> pairs_of(const TemporaryDirectory& directory,
                                            const std::vector<MarkedDocument>& documents) {
  CorpusInfo info = sample_info(100);
  info.marks_learnt = info.holds_pairs = true;
  CorpusWriter writer(directory / "p.h5", info);
  for (const auto& document : documents) {
    writer.append("train", document.ids, document.learnt);
    writer.end_document("train", document.ids.size());
  }
  writer.finish();
  return Corpus::open(directory / "p.h5").split("train");
}

/// Documents of pair i begin with i; the rejected one is longer by a token.
std::vector<MarkedDocument> many(int32_t pairs) {
  std::vector<MarkedDocument> documents;
  for (int32_t i = 0; i < pairs; ++i) {
    documents.push_back({{i, 50, 51}, {0, 0, 1}});
    documents.push_back({{i, 50, 52, 53}, {0, 0, 1, 1}});
  }
  return documents;
}

TEST(PairSource, PadsBothSequencesOfAPairAsWorkedByHand) {
  const TemporaryDirectory directory;
  // of the first nothing after 12 is learnt, so that nothing after it is read
  const auto split = pairs_of(
      directory, {{{10, 11, 12, 13}, {0, 1, 1, 0}}, {{20, 21, 22, 23, 24}, {0, 0, 1, 0, 1}}});
  const PairSource source({{split}}, {.length = 4, .shuffle = false});
  const Batch batch = source.make(0, 2);
  EXPECT_EQ(batch.sequences, 2);
  EXPECT_EQ(batch.length, 4);
  EXPECT_THAT(batch.tokens, ElementsAre(10, 11, 0, 0, 20, 21, 22, 23));
  EXPECT_THAT(batch.targets, ElementsAre(11, 12, -1, -1, -1, 22, -1, 24));
  EXPECT_EQ(batch.token_count, 6);
  EXPECT_EQ(batch.target_count, 4);
  EXPECT_FALSE(batch.has_borders);
  EXPECT_EQ(source.remark(), "");
}

TEST(PairSource, VisitsEveryPairOnceAnEpochInAnotherOrderEachTime) {
  const TemporaryDirectory directory;
  const auto split = pairs_of(directory, many(30));
  const PairSource source({{split}}, {.length = 8, .seed = 4});
  EXPECT_EQ(source.sequences_per_epoch(), 60);
  std::vector<std::vector<int64_t>> orders(2);
  for (size_t epoch = 0; epoch < 2; ++epoch) {
    for (uint64_t pair = 0; pair < 30; ++pair) {
      const Batch batch = source.make(60 * epoch + 2 * pair, 2);
      EXPECT_EQ(batch.tokens[0], batch.tokens[3]);  // the same prompt
      EXPECT_EQ(batch.targets[1], 51);              // the chosen first
      orders[epoch].push_back(batch.tokens[0]);
    }
    EXPECT_EQ(std::set<int64_t>(orders[epoch].begin(), orders[epoch].end()).size(), 30);
  }
  EXPECT_NE(orders[0], orders[1]);
  // whatever the batch, and after any other
  const Batch four = source.make(8, 8);
  for (size_t pair = 0; pair < 4; ++pair) EXPECT_EQ(four.tokens[6 * pair], orders[0][4 + pair]);
  BatchStream stream(std::make_unique<PairSource>(source), 4);
  stream.seek(8);
  EXPECT_EQ(stream.next().tokens, source.make(8, 4).tokens);
  EXPECT_EQ(stream.position(), 12);
}

TEST(PairSource, LeavesOutAndTellsWhatIsTooLong) {
  const TemporaryDirectory directory;
  auto documents = many(3);
  documents[3] = {{1, 50, 52, 53, 54}, {0, 0, 1, 1, 1}};
  const auto split = pairs_of(directory, documents);
  const PairSource source({{split}}, {.length = 3, .shuffle = false});
  EXPECT_EQ(source.sequences_per_epoch(), 4);
  EXPECT_EQ(source.make(2, 2).tokens[0], 2);
  EXPECT_EQ(source.remark(), "1 of 3 pairs are left out: longer than 3 tokens");
  EXPECT_THAT(error_of([&] { PairSource({{split}}, {.length = 2}); }),
              AllOf(StartsWith("65: "), HasSubstr("none of 3 pairs fits into sequences of 2")));
}

TEST(PairSource, CountsSequencesUpToSoManyTokens) {
  const TemporaryDirectory directory;
  const auto split = pairs_of(directory, many(3));  // of 5 tokens that are not targets only
  const PairSource source({{split}}, {.length = 8, .shuffle = false});
  EXPECT_EQ(source.sequences_with(0), 6);
  EXPECT_EQ(source.sequences_with(1), 2);
  EXPECT_EQ(source.sequences_with(5), 2);
  EXPECT_EQ(source.sequences_with(6), 4);
  EXPECT_EQ(source.sequences_with(1000), 6);
}

TEST(PairSource, ACorpusOfPairsHasAnEvenNumberOfDocuments) {
  const TemporaryDirectory directory;
  EXPECT_THAT(error_of([&] { pairs_of(directory, {{{1, 2}, {0, 1}}}); }),
              AllOf(StartsWith("70: "), HasSubstr("a pair of one document")));
}

}  // namespace
}  // namespace kvsmith
