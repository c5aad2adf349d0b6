// What a corpus says of each token: whether it is to be learnt.
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/corpus_schema.h"
#include "tests/data/sample_corpus.h"

namespace kvsmith {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(LearntMarks, AreReadBackAcrossChunks) {
  const TemporaryDirectory directory;
  MarkedDocument document;
  for (int32_t i = 0; i < 200'000; ++i) {
    document.ids.push_back(i % 100);
    document.learnt.push_back(i % 7 < 3 ? 1 : 0);
  }
  const Corpus corpus = marked_corpus(directory / "c.h5", {document, document});
  corpus.verify();
  const auto split = corpus.split("train");
  std::vector<uint8_t> learnt(200'000);
  split->read_learnt(200'000, learnt);
  EXPECT_EQ(learnt, document.learnt);
  EXPECT_THAT(error_of([&] { split->read_learnt(200'001, learnt); }), StartsWith("70: "));
}

TEST(LearntMarks, AreGivenForEveryTokenOfACorpusThatHasThem) {
  const TemporaryDirectory directory;
  CorpusInfo info = sample_info(100);
  const std::vector<int32_t> ids = {1, 2};
  const std::vector<uint8_t> one = {1}, two = {0, 1}, other = {0, 2};
  CorpusWriter without(directory / "a.h5", info);
  EXPECT_THAT(error_of([&] { without.append("train", ids, two); }), StartsWith("70: "));
  info.marks_learnt = true;
  CorpusWriter with(directory / "b.h5", info);
  EXPECT_THAT(error_of([&] { with.append("train", ids); }), StartsWith("70: "));
  EXPECT_THAT(error_of([&] { with.append("train", ids, one); }), StartsWith("70: "));
  EXPECT_THAT(error_of([&] { with.append("train", ids, other); }), StartsWith("70: "));
}

TEST(LearntMarks, ChangeTheFingerprint) {
  const TemporaryDirectory directory;
  const auto a = marked_corpus(directory / "a.h5", {{{1, 2, 3}, {0, 0, 1}}});
  const auto b = marked_corpus(directory / "b.h5", {{{1, 2, 3}, {0, 1, 1}}});
  EXPECT_NE(a.fingerprint(), b.fingerprint());
}

/// A file as a faulty writer would leave it: three tokens and these marks, none for an empty list.
std::string error_of_file(int64_t version, const std::vector<uint8_t>& marks) {
  const TemporaryDirectory directory;
  Hdf5File file = Hdf5File::create(directory / "c.h5");
  std::vector<ColumnDigest> digests;
  const auto add = [&](const std::string& path, const Hdf5Layout& layout, const auto& rows) {
    Hdf5Dataset data = file.create_dataset(path, layout);
    Hdf5Dataset stored = file.create_dataset(path + kHashSuffix, kHashLayout);
    const uint64_t bytes = rows.size() * sizeof(rows[0]);
    const ChunkHashes hashes = {xxh3_128(rows.data(), bytes)};
    data.append(rows.data(), bytes / layout.row_bytes());
    stored.append(hashes.data(), 1);
    digests.emplace_back(path, layout.type, bytes / layout.row_bytes(), hashes);
    data.close();
    stored.close();
  };
  file.create_group("train");
  add("train/tokens", token_layout(100), std::vector<uint16_t>{1, 2, 3});
  add("train/document_offsets", kIndexLayout, std::vector<uint64_t>{0, 3});
  add("train/document_bytes", kIndexLayout, std::vector<uint64_t>{7});
  if (!marks.empty()) add("train/learnt", kLearntLayout, marks);
  add(kSources, kBytesLayout, std::string("[]"));
  CorpusInfo info;
  info.vocab_size = 100;
  Hdf5Attributes attributes = attributes_of(info);
  attributes["version"] = version;
  attributes["fingerprint"] = corpus_fingerprint(attributes, digests);
  file.set_attributes(attributes);
  file.close();
  return error_of([&] {
    const Corpus corpus = Corpus::open(directory / "c.h5");
    corpus.verify();
    throw Error(ExitCode::kDone, {.what = "it is a corpus", .where = "", .remedy = ""});
  });
}

TEST(LearntMarks, AreRefusedWhereTheyCannotBeRight) {
  EXPECT_THAT(error_of_file(1, {}), HasSubstr("it is a corpus"));
  EXPECT_THAT(error_of_file(2, {0, 1, 1}), HasSubstr("it is a corpus"));
  EXPECT_THAT(error_of_file(2, {}),
              AllOf(StartsWith("65: "), HasSubstr("/train: no member \"learnt\"")));
  EXPECT_THAT(error_of_file(1, {0, 1, 1}),
              AllOf(StartsWith("65: "), HasSubstr("/train: unknown member \"learnt\"")));
  EXPECT_THAT(error_of_file(2, {0, 1}),
              AllOf(StartsWith("65: "), HasSubstr("/train/learnt: has 2 marks for 3 tokens")));
  EXPECT_THAT(
      error_of_file(2, {0, 1, 2}),
      AllOf(StartsWith("65: "), HasSubstr("/train/learnt: mark 2 at position 2 is neither 0 nor")));
  EXPECT_THAT(error_of_file(3, {0, 1, 1}),
              AllOf(StartsWith("65: "), HasSubstr("/train: holds pairs, and 1 documents")));
  EXPECT_THAT(
      error_of_file(4, {0, 1, 1}),
      AllOf(StartsWith("65: "), HasSubstr("version 4, expected \"kvsmith.corpus\" version "
                                          "1 to 3; use the version of kvsmith that wrote")));
}

}  // namespace
}  // namespace kvsmith
