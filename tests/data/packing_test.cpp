// Documents whole in sequences where they fit.
#include "data/packing.h"

#include <map>
#include <vector>

#include <gtest/gtest.h>

#include "core/random.h"
#include "tests/data/sample_corpus.h"

namespace kvsmith {
namespace {

std::vector<int32_t> document(size_t tokens, int32_t first) {
  std::vector<int32_t> out;
  for (size_t i = 0; i < tokens; ++i) out.push_back(first + static_cast<int32_t>(i));
  return out;
}

/// A corpus of documents of so many tokens, numbered on and on.
Corpus corpus_of(const std::filesystem::path& path, const std::vector<size_t>& lengths) {
  std::vector<std::vector<int32_t>> documents;
  int32_t first = 1;
  for (const size_t length : lengths) {
    documents.push_back(document(length, first));
    first += static_cast<int32_t>(length);
  }
  write_sample(path, sample_info(first + 1), {{"train", documents}});
  return Corpus::open(path);
}

TEST(Packing, PutsEachPieceWhereLeastRoomIsLeft) {
  const TemporaryDirectory directory;
  // to be read: 3, 6, none, 2, 10 and then 10 + 4, 4 tokens
  const Corpus corpus = corpus_of(directory / "c.h5", {4, 7, 1, 3, 11, 15, 5});
  const auto split = corpus.split("train");
  const Packing packing(*split, 10);
  std::vector<std::vector<int64_t>> lengths;
  for (uint64_t i = 0; i < packing.sequences(); ++i) {
    lengths.emplace_back();
    for (const Piece& piece : packing.sequence(i)) lengths.back().push_back(piece.length);
  }
  const std::vector<std::vector<int64_t>> expected = {{10}, {10}, {6, 4}, {4, 3, 2}};
  EXPECT_EQ(lengths, expected);
  EXPECT_EQ(packing.tokens(), 39u);
}

TEST(Packing, ReadsEveryTokenButLastOnesOnce) {
  const TemporaryDirectory directory;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<size_t> lengths;
    for (uint64_t i = 0; i < 60; ++i) lengths.push_back(1 + hash_of(seed, "length", i) % 23);
    const Corpus corpus = corpus_of(directory / (std::to_string(seed) + ".h5"), lengths);
    const auto split = corpus.split("train");
    const Packing packing(*split, 9);
    std::map<uint64_t, int> read;
    for (uint64_t i = 0; i < packing.sequences(); ++i) {
      int64_t total = 0;
      for (const Piece& piece : packing.sequence(i)) {
        total += piece.length;
        for (int64_t t = 0; t < piece.length; ++t) ++read[piece.first + static_cast<uint64_t>(t)];
      }
      EXPECT_GE(total, 1);
      EXPECT_LE(total, 9);
    }
    for (uint64_t d = 0; d < split->documents(); ++d)
      for (uint64_t t = split->offset(d); t < split->offset(d + 1); ++t)
        EXPECT_EQ(read[t], t + 1 < split->offset(d + 1) ? 1 : 0) << "token " << t;
  }
}

TEST(Packing, BatchesHaveDocumentsThenPadding) {
  const TemporaryDirectory directory;
  const Corpus corpus = marked_corpus(
      directory / "c.h5", {{{11, 12, 13}, {0, 0, 1}}, {{21, 22, 23, 24}, {0, 1, 1, 1}}});
  BatchOptions options{.length = 7, .document_mask = true, .shuffle = false};
  const PackedSource source({{corpus.split("train")}}, options);
  const Batch batch = source.make(0, 1);
  EXPECT_EQ(batch.tokens, (std::vector<int64_t>{21, 22, 23, 11, 12, 0, 0}));
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{22, 23, 24, -1, 13, -1, -1}));
  EXPECT_EQ(batch.positions, (std::vector<int64_t>{0, 1, 2, 0, 1, 0, 1}));
  EXPECT_EQ(batch.segments, (std::vector<int32_t>{0, 0, 0, 1, 1, 2, 2}));
  EXPECT_TRUE(batch.has_borders);
  EXPECT_EQ(batch.target_count, 4);
  EXPECT_EQ(batch.token_count, 5);
  EXPECT_EQ(source.sequences_per_epoch(), 1u);
  EXPECT_EQ(source.remark(), "packed into 1 sequences, of which 28.6 % is padding");

  options.document_mask = false;
  const Batch seen = PackedSource({{corpus.split("train")}}, options).make(0, 1);
  EXPECT_EQ(seen.targets, batch.targets);
  EXPECT_EQ(seen.positions, (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_FALSE(seen.has_borders);
}

TEST(Packing, AnEpochVisitsEverySequenceOnceAndSeeks) {
  const TemporaryDirectory directory;
  const Corpus corpus = corpus_of(directory / "c.h5", {5, 5, 5, 5, 5, 5, 3});
  const std::vector<WeightedSplit> splits = {{corpus.split("train")}};
  BatchStream stream(std::make_unique<PackedSource>(splits, BatchOptions{.length = 5, .seed = 7}),
                     1);
  ASSERT_EQ(stream.sequences_per_epoch(), 7u);
  std::map<int64_t, int> firsts;
  std::vector<std::vector<int64_t>> all;
  for (int i = 0; i < 7; ++i) {
    all.push_back(stream.next().tokens);
    ++firsts[all.back()[0]];
  }
  EXPECT_EQ(firsts.size(), 7u);
  stream.seek(4);
  EXPECT_EQ(stream.next().tokens, all[4]);
}

}  // namespace
}  // namespace kvsmith
