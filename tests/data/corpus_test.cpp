#include "data/corpus.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <ctime>
#include <random>
#include <set>
#include <span>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include "tests/data/sample_corpus.h"

namespace kvsmith {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(Corpus, GivesBackWhatWasWrittenInBothTokenWidths) {
  for (const int64_t vocab_size : {int64_t{65'536}, int64_t{65'537}, int64_t{200'000}}) {
    const TemporaryDirectory directory;
    const size_t train_lengths[] = {100'000, 1, 65'536, 3, 70'000}, valid_lengths[] = {500, 20};
    const auto train = sample_documents(train_lengths, vocab_size);
    const auto valid = sample_documents(valid_lengths, vocab_size);
    const auto path = directory / "corpus.h5";
    write_sample(path, sample_info(vocab_size), {{"train", train}, {"valid", valid}});

    const Corpus corpus = Corpus::open(path);
    corpus.verify();
    EXPECT_EQ(corpus.splits(), (std::vector<std::string>{"train", "valid"}));
    EXPECT_EQ(corpus.info().vocab_size, vocab_size);
    EXPECT_EQ(corpus.info().tokenizer_model, sample_info(vocab_size).tokenizer_model);
    EXPECT_EQ(corpus.info().sources.at(0).name, "a.txt");
    EXPECT_EQ(corpus.fingerprint().size(), 64u);
    for (const auto& [name, documents] : {std::pair{"train", train}, std::pair{"valid", valid}}) {
      const auto split = corpus.split(name);
      ASSERT_EQ(split->documents(), documents.size());
      for (uint64_t i = 0; i < documents.size(); ++i) {
        ASSERT_EQ(split->offset(i + 1) - split->offset(i), documents[i].size());
        std::vector<int32_t> ids(documents[i].size());
        split->read(split->offset(i), ids);
        EXPECT_EQ(ids, documents[i]) << name << " document " << i;
        EXPECT_EQ(split->text_bytes(i), 3 * documents[i].size());
      }
      EXPECT_EQ(split->offset(documents.size()), split->tokens());
    }
  }
}

TEST(Corpus, IsWithoutTokenizerWhenItsTokensWereImported) {
  const TemporaryDirectory directory;
  write_sample(directory / "c.h5",
               {.vocab_size = 50'257,
                .tokenizer_name = {},
                .tokenizer_sha256 = {},
                .tokenizer_model = {},
                .sources = {}},
               {{"train", {{50'256, 5, 6}}}});
  const CorpusContent content = content_of(directory / "c.h5");
  EXPECT_EQ(content.info.tokenizer_model + content.info.tokenizer_name, "");
  EXPECT_EQ(content.info.bos_id, -1);
  EXPECT_TRUE(content.info.sources.empty());
  EXPECT_EQ(content.tokens, (std::vector<std::vector<int32_t>>{{50'256, 5, 6}}));
}

TEST(Corpus, KeepsManyDocumentsOverManyIndexChunks) {
  const TemporaryDirectory directory;
  const std::vector<size_t> lengths(20'000, 3);
  const auto documents = sample_documents(lengths, 100);
  write_sample(directory / "c.h5", sample_info(100), {{"train", documents}});
  const Corpus corpus = Corpus::open(directory / "c.h5");
  const auto split = corpus.split("train");
  ASSERT_EQ(split->documents(), 20'000u);
  for (const uint64_t i : {0u, 8'190u, 8'191u, 8'192u, 16'384u, 19'999u, 20'000u}) {
    EXPECT_EQ(split->offset(i), 3 * i);
  }
}

TEST(Corpus, IsByteIdenticalWhenBuiltTwice) {
  const TemporaryDirectory directory;
  write_small(directory / "a.h5");
  const std::time_t built = std::time(nullptr);  // HDF5 would store times in seconds
  while (std::time(nullptr) == built) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  write_small(directory / "b.h5");
  EXPECT_EQ(sha256_of_file(directory / "a.h5"), sha256_of_file(directory / "b.h5"));
}

TEST(Corpus, HasAnotherFingerprintWithOtherTokensOrAttributes) {
  const TemporaryDirectory directory;
  write_small(directory / "a.h5");
  auto documents = sample_documents(kSmall, 500);
  documents[4][4999] ^= 1;
  write_sample(directory / "b.h5", sample_info(500), {{"train", documents}});
  CorpusInfo info = sample_info(500);
  info.eos_id = 3;
  write_sample(directory / "c.h5", info, {{"train", sample_documents(kSmall, 500)}});
  const auto fingerprint = [&](const char* name) {
    return Corpus::open(directory / name).fingerprint();
  };
  EXPECT_NE(fingerprint("a.h5"), fingerprint("b.h5"));
  EXPECT_NE(fingerprint("a.h5"), fingerprint("c.h5"));
}

TEST(Corpus, IsReadTheSameByManyThreads) {
  const TemporaryDirectory directory;
  const size_t lengths[] = {300'000};
  const auto documents = sample_documents(lengths, 30'000);
  write_sample(directory / "c.h5", sample_info(30'000), {{"train", documents}});
  const Corpus corpus = Corpus::open(directory / "c.h5");
  const auto split = corpus.split("train");
  std::vector<std::jthread> threads;
  std::atomic<int> wrong = 0;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      std::vector<int32_t> ids(1000);
      for (int i = 0; i < 200; ++i) {
        const uint64_t first = random() % 299'000;
        split->read(first, ids);
        wrong += !std::equal(ids.begin(), ids.end(), documents[0].begin() + first);
      }
    });
  }
  threads.clear();
  EXPECT_EQ(wrong, 0);
}

TEST(CorpusWriter, LeavesNothingWithoutFinish) {
  const TemporaryDirectory directory;
  {
    CorpusWriter writer(directory / "c.h5", sample_info(500));
    writer.add_document("train", std::vector<int32_t>(200'000, 7), 1);
    EXPECT_EQ(directory.names().size(), 1u);
    EXPECT_FALSE(std::filesystem::exists(directory / "c.h5"));
  }
  EXPECT_EQ(directory.names(), std::set<std::string>{});
}

TEST(CorpusWriter, RefusesWhatCannotBeACorpus) {
  const TemporaryDirectory directory;
  const auto write = [&](const std::string& split, std::vector<int32_t> ids) {
    return error_of([&] { write_sample(directory / "c.h5", sample_info(500), {{split, {ids}}}); });
  };
  EXPECT_THAT(write("train", {1, 2, 500}),
              AllOf(StartsWith("65: "), HasSubstr("token 500 at position 2 of document 0 (split "
                                                  "train) is outside the vocabulary of 500")));
  EXPECT_THAT(write("train", {-1}), StartsWith("65: "));
  EXPECT_THAT(write("train", {}), AllOf(StartsWith("65: "), HasSubstr("no tokens")));
  EXPECT_THAT(write("../train", {1}), StartsWith("70: "));
  EXPECT_THAT(write("tokenizer", {1}), StartsWith("70: "));
  EXPECT_EQ(directory.names(), std::set<std::string>{});
}

TEST(CorpusWriter, TakesADocumentInPiecesOfAnySize) {
  const TemporaryDirectory directory;
  const size_t lengths[] = {200'000, 1, 65'536, 3};
  for (const int64_t vocab_size : {500, 200'000}) {
    const auto documents = sample_documents(lengths, vocab_size);
    write_sample(directory / "whole.h5", sample_info(vocab_size),
                 {{"train", documents}, {"valid", documents}});
    for (const size_t piece : {777u, 65'536u, 150'000u}) {
      CorpusWriter writer(directory / "pieces.h5", sample_info(vocab_size));
      for (const char* split : {"train", "valid"}) {
        for (const auto& document : documents) {
          writer.append(split, {});
          for (std::span<const int32_t> rest(document); !rest.empty();) {
            const size_t count = std::min(piece, rest.size());
            writer.append(split, rest.first(count));
            rest = rest.subspan(count);
          }
          writer.end_document(split, 3 * document.size());
        }
      }
      writer.finish();
      EXPECT_EQ(sha256_of_file(directory / "pieces.h5"), sha256_of_file(directory / "whole.h5"))
          << "pieces of " << piece << " of a vocabulary of " << vocab_size;
    }
  }
}

TEST(CorpusWriter, CountsTheTokensOfADocumentOverItsPieces) {
  const TemporaryDirectory directory;
  CorpusWriter writer(directory / "c.h5", sample_info(500));
  writer.add_document("train", std::vector<int32_t>(10, 7), 1);
  writer.append("train", std::vector<int32_t>(40, 7));
  EXPECT_THAT(error_of([&] { writer.append("train", std::vector<int32_t>{7, 500}); }),
              AllOf(StartsWith("65: "), HasSubstr("token 500 at position 41 of document 1 ")));
  EXPECT_THAT(error_of([&] { writer.finish(); }),
              AllOf(StartsWith("70: "), HasSubstr("document 1 (split train) was not ended")));
  writer.end_document("train", 1);
  writer.finish();
  EXPECT_EQ(Corpus::open(directory / "c.h5").split("train")->offset(2), 50);
}

TEST(CorpusWriter, ReportsAFullDiskAndLeavesNothing) {
  const TemporaryDirectory directory;
  for (const rlim_t limit : {3'000u, 100'000u, 300'000u, 700'000u, 740'000u}) {
    expect_in_child([&] {
      std::signal(SIGXFSZ, SIG_IGN);
      const rlimit size{limit, limit};
      ::setrlimit(RLIMIT_FSIZE, &size);
      const size_t lengths[] = {300'000, 5};
      const auto documents = sample_documents(lengths, 500);
      const std::string error = error_of(
          [&] { write_sample(directory / "c.h5", sample_info(500), {{"train", documents}}); });
      const bool refused = error.starts_with("74: ") && directory.names().empty();
      return refused ? "" : cat(limit, " bytes: ", error);
    });
  }
}

}  // namespace
}  // namespace kvsmith
