#include "data/build.h"

#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "core/hash.h"
#include "core/text.h"
#include "data/corpus.h"
#include "tests/data/small_tokenizer.h"
#include "tests/support/child.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

class BuildTest : public testing::Test {
 protected:
  BuildTest() {
    write_file(folder / "t.model", small_model());
    std::string lines;
    for (int i = 0; i < 300; ++i)
      lines += cat("{\"text\": \"document ", i, " of the worst times\"}\n");
    write_text(folder / "a.jsonl", lines);
    write_text(folder / "b.txt", sample_text());
    options.train_inputs = {folder / "a.jsonl", folder / "b.txt"};
    options.tokenizer = folder / "t.model";
    options.threads = 2;
  }

  CorpusBuildStats build() { return build_corpus(options, folder / "out.h5"); }

  std::vector<std::vector<int32_t>> documents(const std::string& split) {
    const auto from = Corpus::open(folder / "out.h5").split(split);
    std::vector<std::vector<int32_t>> all;
    for (uint64_t i = 0; i < from->documents(); ++i) {
      all.emplace_back(from->offset(i + 1) - from->offset(i));
      from->read(from->offset(i), all.back());
    }
    return all;
  }

  TemporaryDirectory folder;
  CorpusBuild options;
};

TEST_F(BuildTest, StoresEachDocumentBetweenItsMarks) {
  const CorpusBuildStats stats = build();
  const Tokenizer tokenizer = small_tokenizer();
  const auto stored = documents("train");
  ASSERT_EQ(stored.size(), 301);
  EXPECT_EQ(stats.documents, 301);
  std::vector<int32_t> expected{1};
  tokenizer.encode_to(expected, "document 17 of the worst times");
  expected.push_back(2);
  EXPECT_EQ(stored[17], expected);
  EXPECT_EQ(tokenizer.decode(stored[300]), sample_text());

  const Corpus corpus = Corpus::open(folder / "out.h5");
  EXPECT_EQ(corpus.split("train")->tokens(), stats.tokens);
  EXPECT_EQ(corpus.split("train")->text_bytes(300), sample_text().size());
  EXPECT_EQ(corpus.info().tokenizer_sha256, tokenizer.sha256());
  EXPECT_EQ(corpus.info().vocab_size, 600);
  ASSERT_EQ(corpus.info().sources.size(), 2);
  EXPECT_EQ(corpus.info().sources[1].name, "b.txt");
  EXPECT_EQ(corpus.info().sources[1].sha256, sha256(sample_text()));
}

TEST_F(BuildTest, TheFileIsTheSameForAnyThreadCountAndPieceSize) {
  std::string text;
  while (text.size() < 3 << 20) text += sample_text();
  write_text(folder / "b.txt", text);
  options.valid_fraction = 0.2;
  std::map<std::string, int> files;
  for (const int threads : {1, 2, 5}) {
    options.threads = threads;
    options.text.max_document_bytes = threads == 5 ? 5000 : 1 << 20;
    build();
    ++files[sha256_of_file(folder / "out.h5")];
  }
  EXPECT_EQ(files.size(), 1);
}

TEST_F(BuildTest, AFractionOfTheDocumentsIsForValidation) {
  options.valid_fraction = 0.25;
  build();
  const auto train = documents("train"), valid = documents("valid");
  EXPECT_EQ(train.size() + valid.size(), 301);
  EXPECT_GT(valid.size(), 45);
  EXPECT_LT(valid.size(), 110);
  options.seed = 1;
  build();
  EXPECT_NE(documents("valid"), valid) << "which ones depends on the seed";
}

TEST_F(BuildTest, GivenFilesAreForValidation) {
  options.train_inputs = {folder / "a.jsonl"};
  options.valid_inputs = {folder / "b.txt"};
  build();
  EXPECT_EQ(documents("train").size(), 300);
  EXPECT_EQ(documents("valid").size(), 1);
}

TEST_F(BuildTest, SplitsThatStayEmptyAreErrorsAndLeaveNothing) {
  options.train_inputs = {folder / "b.txt"};
  options.valid_fraction = 0.1;
  expect_error([&] { build(); }, ExitCode::kBadData, "of 1 documents");
  options.valid_fraction = 0;
  write_text(folder / "b.txt", " \n\n");
  expect_error([&] { build(); }, ExitCode::kBadData, "0 documents");
  write_text(folder / "b.txt", "good \xFF");
  expect_error([&] { build(); }, ExitCode::kBadData, "b.txt:1: invalid UTF-8");
  EXPECT_EQ(folder.names(), (std::set<std::string>{"a.jsonl", "b.txt", "t.model"}));
}

TEST_F(BuildTest, CountsWhatItLeavesOutOrChanges) {
  write_text(folder / "c.txt", "bad \xFF\n--\n \n--\ngood\n");
  options.train_inputs = {folder / "c.txt"};
  options.text.document_separator = "--";
  options.text.invalid_utf8 = "skip";
  auto stats = build();
  EXPECT_EQ(std::vector({stats.documents, stats.skipped_documents, stats.blank_documents}),
            (std::vector<uint64_t>{1, 1, 1}));
  options.text.invalid_utf8 = "replace";
  stats = build();
  EXPECT_EQ(std::vector({stats.documents, stats.replaced_sequences}),
            (std::vector<uint64_t>{2, 1}));
}

TEST_F(BuildTest, ADocumentFoundBadHalfwayLeavesNoTrace) {
  const std::string good = "short\n--\n" + sample_text() + "--\n";
  const std::string bad = sample_text() + "\xFF\n--\n";
  options.train_inputs = {folder / "c.txt"};
  options.text.document_separator = "--";
  options.text.invalid_utf8 = "skip";
  options.text.max_document_bytes = 1000;
  options.valid_fraction = 0.4;
  std::string text;
  for (int i = 0; i < 10; ++i) text += good;
  write_text(folder / "c.txt", text);
  const auto expected = build();
  const auto train = documents("train"), valid = documents("valid");

  text = bad;
  for (int i = 0; i < 10; ++i) text += good + bad;
  write_text(folder / "c.txt", text);
  const auto stats = build();
  EXPECT_EQ(stats.skipped_documents, 11);
  EXPECT_EQ(std::vector({stats.documents, stats.tokens, stats.text_bytes}),
            std::vector({expected.documents, expected.tokens, expected.text_bytes}));
  EXPECT_EQ(documents("train"), train);
  EXPECT_EQ(documents("valid"), valid);
}

TEST_F(BuildTest, OneDocumentOfManyMegabytesNeedsLittleMemory) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer holds on to what is freed";
#endif
  // No spaces, but words that the tokenizer knows how to part: whole ones of such length are slow.
  std::string text;
  for (int i = 0; i < 1000; ++i) text += "worst1859wisdom(total)";
  std::ofstream file(folder / "b.txt", std::ios::binary);
  for (size_t bytes = 0; bytes < size_t{64} << 20; bytes += text.size()) file << text;
  file.close();
  write_text(folder / "small.txt", text);
  options.text.max_document_bytes = 1 << 16;
  const int code = in_child([&] {
    // how much of the libraries' files a first build brings in is up to the kernel
    options.train_inputs = {folder / "small.txt"};
    build();
    options.train_inputs = {folder / "b.txt"};
    rusage before{}, after{};
    ::getrusage(RUSAGE_SELF, &before);
    const CorpusBuildStats stats = build();
    ::getrusage(RUSAGE_SELF, &after);
    const bool small = after.ru_maxrss - before.ru_maxrss < 32 << 10;  // KiB
    return stats.documents == 1 && stats.tokens > 16 << 20 && small ? 0 : 1;
  });
  EXPECT_EQ(code, 0);
}

TEST_F(BuildTest, TokenFilesAreCopiedAsTheyAre) {
  const std::vector<uint16_t> tokens{1, 20, 30, 2, 1, 40, 2};
  write_text(folder / "x.bin", {reinterpret_cast<const char*>(tokens.data()), tokens.size() * 2});
  options.train_inputs = {folder / "x.bin"};
  build();
  EXPECT_EQ(documents("train"), (std::vector<std::vector<int32_t>>{{1, 20, 30, 2}, {1, 40, 2}}));
  options.tokenizer.clear();
  expect_error([&] { build(); }, ExitCode::kConfig, "--vocab-size");
  options.vocab_size = 41;
  build();
  EXPECT_EQ(documents("train").size(), 1) << "without a tokenizer nothing says where documents end";
  options.vocab_size = 40;
  expect_error([&] { build(); }, ExitCode::kBadData, "outside the vocabulary of 40");
}

TEST_F(BuildTest, OptionsThatContradictAreErrors) {
  const auto with = [&](auto change) {
    CorpusBuild changed = options;
    change(changed);
    return [this, changed] { build_corpus(changed, folder / "out.h5"); };
  };
  write_text(folder / "x.bin", "abcd");
  expect_error(with([](CorpusBuild& b) { b.train_inputs.clear(); }), ExitCode::kConfig,
               "no inputs");
  expect_error(with([](CorpusBuild& b) { b.valid_fraction = 0.9; }), ExitCode::kConfig, "0 to 0.5");
  expect_error(with([](CorpusBuild& b) { b.tokenizer.clear(); }), ExitCode::kConfig,
               "no tokenizer for texts; name a SentencePiece model or a tokenizer.json");
  expect_error(with([&](CorpusBuild& b) {
                 b.valid_fraction = 0.1;
                 b.valid_inputs = b.train_inputs;
               }),
               ExitCode::kConfig, "choose one");
  expect_error(with([&](CorpusBuild& b) { b.train_inputs.push_back(folder / "x.bin"); }),
               ExitCode::kConfig, "build two corpora");
  expect_error(with([&](CorpusBuild& b) { b.valid_inputs = {folder / "x.bin"}; }),
               ExitCode::kConfig, "build two corpora");
}

TEST_F(BuildTest, ReportsProgressInTheCallingThread) {
  const auto thread = std::this_thread::get_id();
  int calls = 0;
  build_corpus(options, folder / "out.h5", [&](const CorpusBuildStats& stats) {
    EXPECT_TRUE(std::this_thread::get_id() == thread);
    EXPECT_GT(stats.documents, 0);
    ++calls;
  });
  EXPECT_GT(calls, 0);
}

}  // namespace
}  // namespace kvsmith
