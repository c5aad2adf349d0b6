#include "tools/text_sample.h"

#include <algorithm>

#include "tests/data/small_tokenizer.h"
#include "tests/support/expect_error.h"
#include "tools/console.h"

namespace kvsmith {
namespace {

class TextSampleTest : public ::testing::Test {
 protected:
  std::vector<int32_t> read(const std::string& text, int64_t tokens) {
    write_text(directory_ / "text.txt", text);
    return read_sample(tokenizer_, {.path = directory_ / "text.txt", .tokens = tokens});
  }

  TemporaryDirectory directory_;
  std::optional<Tokenizer> tokenizer_ = small_tokenizer();
};

TEST_F(TextSampleTest, BeginOfTextStandsBeforeTheTextAndNowhereElse) {
  const std::string text = sample_text();
  const auto whole = tokenizer_->encode(text);
  const auto ids = read(text, 200);
  ASSERT_EQ(ids.size(), 200U);
  EXPECT_EQ(ids[0], tokenizer_->bos_id());
  EXPECT_TRUE(std::equal(ids.begin() + 1, ids.end(), whole.begin()));
  EXPECT_EQ(std::ranges::count(ids, tokenizer_->bos_id()), 1);
  EXPECT_EQ(read("one line", 200).size(), 1 + tokenizer_->encode("one line").size());
}

TEST_F(TextSampleTest, ReadsNoMoreThanIsWantedAndCutsNoCharacter) {
  // the part that is read ends within a character of three bytes
  std::string text;
  while (text.size() < 1000) text += "日本語";
  EXPECT_EQ(read("a" + text, 16).size(), 16U);
  EXPECT_EQ(read("ab" + text, 16).size(), 16U);
}

TEST_F(TextSampleTest, RefusesWhatIsNoText) {
  expect_error([&] { read("", 10); }, ExitCode::kBadData, "less than two tokens");
  expect_error([&] { read("\xFF\xFE text", 10); }, ExitCode::kBadData, "UTF-8");
  tokenizer_.reset();
  expect_error([&] { read("text", 10); }, ExitCode::kConfig, "has no tokenizer");
  expect_error([&] { read_sample({}, {.path = "text.txt"}, "no kind of ours"); }, ExitCode::kConfig,
               "text.txt: the model's tokenizer cannot be used: no kind of ours");
}

TEST(TextSample, OnlyAContextThatWasGivenMayBeLongerThanTheModels) {
  Console console(/*quiet=*/true);
  const auto limited = [&](TextSample sample) {
    limit_context(sample, 512, console);
    return sample.context;
  };
  EXPECT_EQ(limited({}), 512);
  EXPECT_EQ(limited({.context = 100}), 100);
  EXPECT_EQ(limited({.context = 1024, .has_context = true}), 1024);
}

}  // namespace
}  // namespace kvsmith
