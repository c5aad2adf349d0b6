#include "data/batches.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/data/sample_corpus.h"

namespace kvsmith {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

/// A split in memory, of one document, or of those that begin at `begins`.
class FakeSplit : public CorpusSplit {
 public:
  explicit FakeSplit(std::vector<int32_t> ids, std::vector<uint64_t> begins = {0})
      : ids_(std::move(ids)), begins_(std::move(begins)) {}
  uint64_t tokens() const override { return ids_.size(); }
  uint64_t documents() const override { return begins_.size(); }
  void read(uint64_t first, std::span<int32_t> out) const override {
    ASSERT_LE(first + out.size(), ids_.size());
    std::copy_n(ids_.begin() + static_cast<ptrdiff_t>(first), out.size(), out.begin());
  }
  uint64_t offset(uint64_t document) const override {
    return document < begins_.size() ? begins_[document] : ids_.size();
  }
  uint64_t text_bytes(uint64_t) const override { return 0; }

 private:
  std::vector<int32_t> ids_;
  std::vector<uint64_t> begins_;
};

/// Tokens first, first + 1, ...: a window is known by what it begins with.
std::shared_ptr<const CorpusSplit> counting(int32_t tokens, int32_t first = 0) {
  std::vector<int32_t> ids(static_cast<size_t>(tokens));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = first + static_cast<int32_t>(i);
  return std::make_shared<FakeSplit>(std::move(ids));
}

bool same(const Batch& a, const Batch& b) {
  return a.sequences == b.sequences && a.length == b.length && a.tokens == b.tokens &&
         a.targets == b.targets && a.positions == b.positions && a.segments == b.segments &&
         a.has_borders == b.has_borders && a.target_count == b.target_count;
}

std::vector<int64_t> first_tokens(BatchStream& stream, size_t sequences) {
  std::vector<int64_t> firsts;
  while (firsts.size() < sequences) {
    const Batch batch = stream.next();
    for (int64_t i = 0; i < batch.sequences; ++i) {
      firsts.push_back(batch.tokens[static_cast<size_t>(i * batch.length)]);
    }
  }
  firsts.resize(sequences);
  return firsts;
}

TEST(Permute, IsABijectionOfAnySize) {
  std::vector<uint64_t> sizes = {1'000, 4'095, 4'096, 4'097, 65'537, 300'001};
  for (uint64_t size = 1; size <= 300; ++size) sizes.push_back(size);
  for (const uint64_t size : sizes) {
    for (const uint64_t round : {0u, 1u, 7u}) {
      std::vector<bool> seen(size);
      for (uint64_t i = 0; i < size; ++i) {
        const uint64_t image = permute(i, size, 42, round);
        ASSERT_LT(image, size);
        ASSERT_FALSE(seen[image]) << "size " << size << " round " << round << " index " << i;
        seen[image] = true;
      }
    }
  }
}

TEST(Permute, StaysInRangesTooLargeToList) {
  for (const uint64_t size : {uint64_t{1} << 40, (uint64_t{1} << 63) + 12'345, UINT64_MAX}) {
    std::set<uint64_t> images;
    for (uint64_t i = 0; i < 1'000; ++i) {
      const uint64_t image = permute(size - 1 - i, size, 1, 2);
      ASSERT_LT(image, size);
      images.insert(image);
    }
    EXPECT_EQ(images.size(), 1'000u);
  }
}

TEST(Permute, SendsAnIndexAnywhereEquallyOften) {
  // Chi-square with size - 1 degrees of freedom; limits at about 5 standard deviations.
  for (const auto& [size, limit] :
       {std::pair{2, 26.0}, std::pair{5, 24.0}, std::pair{100, 170.0}}) {
    for (const uint64_t index : {0, 1, size - 1}) {
      std::vector<double> hits(static_cast<size_t>(size));
      const int rounds = 200 * size;
      for (int round = 0; round < rounds; ++round) {
        ++hits[permute(index, static_cast<uint64_t>(size), 3, static_cast<uint64_t>(round))];
      }
      double chi_square = 0;
      for (const double n : hits) chi_square += (n - 200) * (n - 200) / 200;
      EXPECT_LT(chi_square, limit) << "size " << size << " index " << index;
    }
  }
}

TEST(Permute, LeavesNeighboursUnrelatedAndDependsOnSeedAndRound) {
  constexpr uint64_t kSize = 10'000;
  int ascending = 0, unmoved = 0, same_seed = 0, same_round = 0;
  for (uint64_t i = 0; i + 1 < kSize; ++i) {
    const uint64_t image = permute(i, kSize, 5, 0);
    ascending += permute(i + 1, kSize, 5, 0) > image;
    unmoved += image == i;
    same_seed += permute(i, kSize, 6, 0) == image;
    same_round += permute(i, kSize, 5, 1) == image;
  }
  EXPECT_NEAR(ascending, kSize / 2.0, 200);
  EXPECT_LT(unmoved, 10);
  EXPECT_LT(same_seed, 10);
  EXPECT_LT(same_round, 10);
}

TEST(BatchStream, HandsOutWindowsAndTheTokensThatFollow) {
  // 10 tokens hold two windows of 4 with a last target, not three of 3 plus rest.
  BatchStream stream({{counting(10)}}, {.length = 4, .shuffle = false}, 2);
  EXPECT_EQ(stream.sequences_per_epoch(), 2u);
  const Batch batch = stream.next();
  EXPECT_EQ(batch.sequences, 2);
  EXPECT_EQ(batch.length, 4);
  EXPECT_EQ(batch.tokens, (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(batch.positions, (std::vector<int64_t>{0, 1, 2, 3, 0, 1, 2, 3}));
  EXPECT_EQ(batch.segments, std::vector<int32_t>(8, 0));
  EXPECT_FALSE(batch.has_borders);
  EXPECT_EQ(batch.target_count, 8);
  EXPECT_EQ(stream.position(), 2u);
}

TEST(BatchStream, UsesTheLastWindowOnlyWithItsLastTarget) {
  for (const auto& [tokens, windows] : {std::pair{5, 1u}, std::pair{8, 1u}, std::pair{9, 2u}}) {
    BatchStream stream({{counting(tokens)}}, {.length = 4});
    EXPECT_EQ(stream.sequences_per_epoch(), windows) << tokens << " tokens";
    first_tokens(stream, 4);
  }
}

TEST(BatchStream, VisitsEveryWindowOnceAnEpochInAnotherOrderEachTime) {
  constexpr int32_t kWindows = 37;
  BatchStream stream({{counting(kWindows * 8 + 3)}}, {.length = 8, .seed = 9}, 5);
  ASSERT_EQ(stream.sequences_per_epoch(), uint64_t{kWindows});
  const std::vector<int64_t> firsts = first_tokens(stream, size_t{4} * kWindows);
  std::set<std::vector<int64_t>> orders;
  for (auto epoch = firsts.begin(); epoch != firsts.end(); epoch += kWindows) {
    std::vector<int64_t> order(epoch, epoch + kWindows);
    orders.insert(order);
    std::ranges::sort(order);
    for (int32_t i = 0; i < kWindows; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], 8 * i);
  }
  EXPECT_EQ(orders.size(), 4u);
}

TEST(BatchStream, ContinuesAfterASeekAsIfNothingHadHappened) {
  const BatchOptions options{.length = 7, .document_mask = true, .seed = 4};
  const std::vector<WeightedSplit> splits = {{counting(500), 3}, {counting(90, 60), 1}};
  BatchStream whole(splits, options, 3);
  std::vector<Batch> batches;
  for (int i = 0; i < 60; ++i) batches.push_back(whole.next());

  BatchStream other(splits, options, 3);
  for (uint64_t i = 0; i < batches.size(); ++i) {
    other.seek(3 * i);
    EXPECT_EQ(other.position(), 3 * i);
    EXPECT_TRUE(same(other.next(), batches[i])) << "after seek to " << 3 * i;
    if (i + 1 == batches.size()) break;
    EXPECT_TRUE(same(other.next(), batches[i + 1])) << "second after seek to " << 3 * i;
  }
}

TEST(BatchStream, DependsOnPositionAndNotOnBatchSize) {
  BatchStream ones({{counting(1'000)}}, {.length = 9, .seed = 2}, 1);
  BatchStream sevens({{counting(1'000)}}, {.length = 9, .seed = 2}, 7);
  EXPECT_EQ(first_tokens(ones, 500), first_tokens(sevens, 500));
}

TEST(BatchStream, IsTheSameForASeedAndAnotherForAnother) {
  const auto firsts = [](uint64_t seed) {
    BatchStream stream({{counting(2'000)}, {counting(2'000, 5'000)}}, {.length = 9, .seed = seed});
    return first_tokens(stream, 300);
  };
  EXPECT_EQ(firsts(1), firsts(1));
  EXPECT_NE(firsts(1), firsts(2));
}

TEST(BatchStream, GivesEverySplitItsShareOfEveryCycle) {
  const struct {
    std::vector<double> weights;
    std::vector<int> slots;  // of 1,024, by largest remainder
  } cases[] = {{{1}, {1024}},
               {{1, 1}, {512, 512}},
               {{3, 1}, {768, 256}},
               {{1, 1, 1}, {342, 341, 341}},
               {{0.7, 0.2, 0.1}, {717, 205, 102}},
               {{1000, 1}, {1023, 1}}};
  for (const auto& c : cases) {
    std::vector<WeightedSplit> splits;
    for (size_t i = 0; i < c.weights.size(); ++i) {
      const auto first = static_cast<int32_t>(i) * 100'000;
      splits.push_back({counting(50 + 400 * static_cast<int32_t>(i), first), c.weights[i]});
    }
    BatchStream stream(splits, {.length = 2}, 64);
    for (int cycle = 0; cycle < 3; ++cycle) {
      std::vector<int> drawn(c.slots.size());
      for (const int64_t token : first_tokens(stream, 1024)) {
        ++drawn[static_cast<size_t>(token / 100'000)];
      }
      EXPECT_EQ(drawn, c.slots) << "cycle " << cycle;
    }
  }
}

TEST(BatchStream, RunsEverySplitOfAMixtureThroughItsOwnEpochs) {
  BatchStream stream({{counting(81), 1}, {counting(161, 1'000), 2}}, {.length = 8, .seed = 3});
  ASSERT_EQ(stream.sequences_per_epoch(), 30u);
  std::vector<int64_t> small, large;
  for (const int64_t token : first_tokens(stream, 2'000)) {
    (token < 1'000 ? small : large).push_back(token);
  }
  for (const auto& [drawn, windows] : {std::pair{&small, 10}, std::pair{&large, 20}}) {
    for (auto at = drawn->begin(); drawn->end() - at >= windows; at += windows) {
      EXPECT_EQ(std::set(at, at + windows).size(), static_cast<size_t>(windows));
    }
  }
}

TEST(BatchStream, MasksDocumentsAsWorkedByHand) {
  // The second window begins inside a document, the third with a new one. What a token is says
  // nothing: 1 begins some documents and is a word of one.
  const auto split = std::make_shared<FakeSplit>(std::vector<int32_t>{1, 11, 12, 1, 21, 22,   //
                                                                      23, 24, 31, 1, 41, 42,  //
                                                                      1, 51, 1, 53, 54, 55, 61},
                                                 std::vector<uint64_t>{0, 3, 8, 9, 12, 18});
  BatchStream stream({{split}}, {.length = 6, .document_mask = true, .shuffle = false}, 3);
  const Batch batch = stream.next();
  EXPECT_EQ(batch.tokens, (std::vector<int64_t>{1, 11, 12, 1, 21, 22,   //
                                                23, 24, 31, 1, 41, 42,  //
                                                1, 51, 1, 53, 54, 55}));
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{11, 12, -1, 21, 22, 23,  //
                                                 24, -1, -1, 41, 42, -1,  //
                                                 51, 1, 53, 54, 55, -1}));
  EXPECT_EQ(batch.positions, (std::vector<int64_t>{0, 1, 2, 0, 1, 2,  //
                                                   0, 1, 0, 0, 1, 2,  //
                                                   0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(batch.segments, (std::vector<int32_t>{0, 0, 0, 1, 1, 1,  //
                                                  0, 0, 1, 2, 2, 2,  //
                                                  0, 0, 0, 0, 0, 0}));
  EXPECT_TRUE(batch.has_borders);
  EXPECT_EQ(batch.target_count, 13);
}

TEST(BatchStream, HasNoBordersWhereEverySequenceIsOneDocumentPiece) {
  const auto split = std::make_shared<FakeSplit>(std::vector<int32_t>{1, 11, 12, 1, 21, 22, 1, 7},
                                                 std::vector<uint64_t>{0, 3, 6});
  const BatchOptions masked{.length = 3, .document_mask = true, .shuffle = false};
  BatchStream stream({{split}}, masked);
  EXPECT_FALSE(stream.next().has_borders);
  BatchOptions longer = masked;
  longer.length = 4;
  EXPECT_TRUE(BatchStream({{split}}, longer).next().has_borders);
  longer.document_mask = false;
  const Batch plain = BatchStream({{split}}, longer).next();
  EXPECT_FALSE(plain.has_borders);
  EXPECT_EQ(plain.target_count, 4);
  EXPECT_EQ(plain.positions, (std::vector<int64_t>{0, 1, 2, 3}));
}

TEST(BatchStream, RefusesWhatItCannotStream) {
  const auto refusal = [](std::vector<WeightedSplit> splits, const BatchOptions& options) {
    return error_of([&] { BatchStream stream(std::move(splits), options); });
  };
  EXPECT_THAT(refusal({{counting(8)}}, {.length = 8}),
              AllOf(StartsWith("65: "), HasSubstr("split of 8 tokens is shorter than a sequence")));
  EXPECT_THAT(refusal({{counting(0)}}, {.length = 8}), StartsWith("65: "));
  EXPECT_THAT(refusal({}, {}), StartsWith("78: "));
  EXPECT_THAT(refusal({{counting(900)}}, {.length = 0}), StartsWith("78: "));
  for (const double weight : {0.0, -1.0, std::nan(""), double{INFINITY}, 1e-9}) {
    EXPECT_THAT(refusal({{counting(900), 1}, {counting(900), weight}}, {}), StartsWith("78: "))
        << weight;
  }
}

TEST(BatchStream, ThrowsTheErrorOfADamagedChunkAndCanBeMovedPastIt) {
  const TemporaryDirectory directory;
  const auto path = directory / "c.h5";
  const size_t lengths[] = {200'000};
  const auto documents = sample_documents(lengths, 60'000);
  write_sample(path, sample_info(60'000), {{"train", documents}});
  {
    // The bytes of tokens 100,000 to 100,007, in the second chunk.
    const std::string bytes = [&] {
      std::ifstream file(path, std::ios::binary);
      return std::string(std::istreambuf_iterator<char>(file), {});
    }();
    const std::vector<uint16_t> ids(documents[0].begin() + 100'000, documents[0].begin() + 100'008);
    const std::string pattern(reinterpret_cast<const char*>(ids.data()), 16);
    const size_t at = bytes.find(pattern);
    ASSERT_NE(at, std::string::npos);
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(at));
    file.put(static_cast<char>(bytes[at] ^ 4));
  }
  BatchStream stream({{Corpus::open(path).split("train")}}, {.length = 1'000, .shuffle = false}, 4);
  testing::internal::CaptureStderr();  // the library likes to print its own errors
  for (int i = 0; i < 16; ++i) EXPECT_EQ(stream.next().target_count, 4'000);
  EXPECT_EQ(stream.position(), 64u);
  for (int i = 0; i < 2; ++i) {
    EXPECT_THAT(error_of([&] { stream.next(); }),
                AllOf(StartsWith("65: "), HasSubstr("/train/tokens"), HasSubstr("chunk 1")));
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(stream.position(), 64u);
  stream.seek(140);
  EXPECT_EQ(stream.next().tokens[0], documents[0][140'000]);
}

}  // namespace
}  // namespace kvsmith
