// What a corpus marks as learnt, in the targets of batches.
#include <vector>

#include <gtest/gtest.h>

#include "data/batches.h"
#include "tests/data/sample_corpus.h"

namespace kvsmith {
namespace {

TEST(LearntBatches, HaveNoTargetWhereTheNextTokenIsNotLearnt) {
  const TemporaryDirectory directory;
  const Corpus corpus = marked_corpus(directory / "c.h5", {{{11, 12, 13, 14, 15}, {0, 0, 1, 1, 0}},
                                                           {{21, 22, 23, 24}, {0, 0, 0, 1}}});
  const BatchOptions options{.length = 4, .shuffle = false};
  const Batch batch = BatchStream({{corpus.split("train")}}, options, 2).next();
  EXPECT_EQ(batch.tokens, (std::vector<int64_t>{11, 12, 13, 14, 15, 21, 22, 23}));
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{-1, 13, 14, -1, -1, -1, -1, 24}));
  EXPECT_EQ(batch.target_count, 3);
  EXPECT_FALSE(batch.has_borders);
}

TEST(LearntBatches, TakeDocumentsOfChatsFromTheIndex) {
  const TemporaryDirectory directory;
  // Begin-of-text is 1: it begins no chat here, and one chat holds it.
  const Corpus corpus =
      marked_corpus(directory / "c.h5", {{{11, 12, 1, 14}, {0, 1, 1, 1}},
                                         {{21}, {1}},
                                         {{}, {}},
                                         {{31, 32, 33}, {1, 1, 0}},
                                         {{41, 42, 43, 44, 45}, {1, 1, 1, 1, 1}}});
  BatchStream stream({{corpus.split("train")}},
                     {.length = 4, .document_mask = true, .shuffle = false}, 3);
  const Batch batch = stream.next();
  EXPECT_EQ(batch.tokens, (std::vector<int64_t>{11, 12, 1, 14,   //
                                                21, 31, 32, 33,  //
                                                41, 42, 43, 44}));
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{12, 1, 14, -1,   //
                                                 -1, 32, -1, -1,  //
                                                 42, 43, 44, 45}));
  EXPECT_EQ(batch.positions, (std::vector<int64_t>{0, 1, 2, 3,  //
                                                   0, 0, 1, 2,  //
                                                   0, 1, 2, 3}));
  EXPECT_EQ(batch.segments, (std::vector<int32_t>{0, 0, 0, 0,  //
                                                  0, 1, 1, 1,  //
                                                  0, 0, 0, 0}));
  EXPECT_TRUE(batch.has_borders);
  EXPECT_EQ(batch.target_count, 8);
}

TEST(LearntBatches, TakeDocumentsFromTheIndexWhereTextsHaveNoBegin) {
  const TemporaryDirectory directory;
  write_sample(directory / "c.h5", sample_info(100), {{"train", {{11, 12}, {21, 22, 23}, {31}}}});
  const auto split = Corpus::open(directory / "c.h5").split("train");
  const Batch batch =
      BatchStream({{split}}, {.length = 5, .document_mask = true, .shuffle = false}).next();
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{12, -1, 22, 23, -1}));
  EXPECT_EQ(batch.positions, (std::vector<int64_t>{0, 1, 0, 1, 2}));
}

TEST(LearntBatches, MayHaveNothingToLearn) {
  const TemporaryDirectory directory;
  const Corpus corpus =
      marked_corpus(directory / "c.h5", {{{11, 12, 13, 14, 15}, {1, 0, 0, 0, 0}}});
  const Batch batch = BatchStream({{corpus.split("train")}}, {.length = 4}).next();
  EXPECT_EQ(batch.targets, std::vector<int64_t>(4, -1));
  EXPECT_EQ(batch.target_count, 0);
}

}  // namespace
}  // namespace kvsmith
