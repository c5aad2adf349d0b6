#include "data/tokenizer_training.h"

#include <string>

#include <gtest/gtest.h>

#include "core/text.h"
#include "tests/data/small_tokenizer.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

class TokenizerTrainingTest : public testing::Test {
 protected:
  TokenizerTrainingTest() { write_text(folder / "text.txt", sample_text()); }

  std::string train(TokenizerTraining options, const std::string& name = "out.model") {
    if (options.inputs.empty()) options.inputs = {folder / "text.txt"};
    train_tokenizer(options, folder / name);
    return read_file(folder / name);
  }

  TemporaryDirectory folder;
};

TEST_F(TokenizerTrainingTest, SameTextsAndSeedGiveTheSameBytesWhateverTheThreadsAndNames) {
  const std::string first = train({.inputs = {}, .vocab_size = 400, .threads = 1});
  write_text(folder / "renamed.txt", sample_text());
  const std::string second =
      train({.inputs = {folder / "renamed.txt"}, .vocab_size = 400, .threads = 3}, "b.model");
  EXPECT_TRUE(first == second);
  EXPECT_EQ(folder.names(),
            (std::set<std::string>{"b.model", "out.model", "renamed.txt", "text.txt"}))
      << "nothing else is left";
}

TEST_F(TokenizerTrainingTest, SamplingIsBoundedAndDependsOnTheSeedOnly) {
  const TokenizerTraining few{.inputs = {}, .vocab_size = 350, .max_bytes = 9000, .seed = 1};
  const std::string one = train(few);
  EXPECT_TRUE(train(few) == one);
  TokenizerTraining other = few;
  other.seed = 2;
  EXPECT_FALSE(train(other) == one);
}

TEST_F(TokenizerTrainingTest, PiecesNeverSpanWordsDigitsOrLines) {
  const auto tokenizer = Tokenizer::from_bytes(train({.inputs = {}, .vocab_size = 700}), "m");
  for (int32_t id = 259; id < tokenizer.vocab_size(); ++id) {
    const std::string& text = tokenizer.surface(id);
    const size_t word = text.find_first_not_of(' ');
    if (word == text.npos) continue;
    EXPECT_EQ(text.find_first_of(" \n", word), text.npos) << text;
    EXPECT_TRUE(text.size() - word == 1 || text.find_first_of("0123456789") == text.npos) << text;
  }
}

TEST_F(TokenizerTrainingTest, AVocabularyTooLargeForTheTextNamesTheLargestThatWorks) {
  write_text(folder / "little.txt", "one two three\n");
  const std::vector<std::string> inputs{folder / "little.txt"};
  int64_t largest = 0;
  try {
    train({.inputs = inputs, .vocab_size = 5000});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadData);
    const std::string text = error.what(), mark = "a --vocab-size of at most ";
    ASSERT_NE(text.find(mark), text.npos) << text;
    largest = std::stoll(text.substr(text.find(mark) + mark.size()));
  }
  expect_error([&] { train({.inputs = inputs, .vocab_size = largest + 1}); }, ExitCode::kBadData,
               cat("the texts give ", largest, " pieces"));
  EXPECT_EQ(
      Tokenizer::from_bytes(train({.inputs = inputs, .vocab_size = largest}), "m").vocab_size(),
      largest);
}

TEST_F(TokenizerTrainingTest, TooSmallAVocabularyOrNoTextIsAnError) {
  expect_error([&] { train({.inputs = {}, .vocab_size = 259}); }, ExitCode::kConfig,
               "more than 259");
  expect_error([&] { train({.inputs = {}, .vocab_size = 270}); }, ExitCode::kBadData,
               "the characters of the texts alone need");
  write_text(folder / "blank.txt", "\n \n");
  expect_error([&] { train({.inputs = {folder / "blank.txt"}}); }, ExitCode::kBadData, "no text");
}

}  // namespace
}  // namespace kvsmith
