#include "data/pre_tokenizer.h"

#include <chrono>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/text.h"
#include "data/unicode.h"
#include "data/utf8.h"
#include "tests/data/small_byte_bpe.h"

namespace kvsmith {
namespace {

std::string parted(const std::string& pre, std::string_view text) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t bytes = first_pre_token(*pre_tokenizer_named(pre), text);
    EXPECT_GT(bytes, 0);
    parts.emplace_back(text.substr(0, bytes));
    text.remove_prefix(bytes);
  }
  return join(parts, "|");
}

// The expected parts are those of Hugging Face tokenizers 0.23.
TEST(PreTokenizer, PartsTextsAsTheExpressionsDo) {
  const struct {
    std::string text, gpt2, smollm, llama3, qwen2;
  } cases[] = {
      {"Hello world's 12345", "Hello| world|'s| 12345", "Hello| world|'s| |1|2|3|4|5",
       "Hello| world|'s| |123|45", "Hello| world|'s| |1|2|3|4|5"},
      {"WE'LL, he'll", "WE|'|LL|,| he|'ll", "WE|'|LL|,| he|'ll", "WE|'LL|,| he|'ll",
       "WE|'LL|,| he|'ll"},
      {"a'\u017Fb", "a|'|\u017Fb", "a|'|\u017Fb", "a|'\u017F|b", "a|'\u017F|b"},
      {"a  b", "a| | b", "a| | b", "a| | b", "a| | b"},
      {"a \n\n b", "a| \n\n| b", "a| \n\n| b", "a| \n\n| b", "a| \n\n| b"},
      {"a\n\nb", "a|\n|\n|b", "a|\n|\n|b", "a|\n\n|b", "a|\n\n|b"},
      {"a  ", "a|  ", "a|  ", "a|  ", "a|  "},
      {"a!\n\nb", "a|!|\n|\n|b", "a|!|\n|\n|b", "a|!\n\n|b", "a|!\n\n|b"},
      {"\tif (x)", "\t|if| (|x|)", "\t|if| (|x|)", "\tif| (|x|)", "\tif| (|x|)"},
      {"\u00A0x\u3000\u3000y", "\u00A0|x|\u3000|\u3000|y", "\u00A0|x|\u3000|\u3000|y",
       "\u00A0x|\u3000|\u3000y", "\u00A0x|\u3000|\u3000y"},
      {"e\u0301a", "e|\u0301|a", "e|\u0301|a", "e|\u0301a", "e|\u0301a"},
      {"x \u0661\u00B2y", "x| \u0661\u00B2|y", "x| |\u0661|\u00B2|y", "x| |\u0661\u00B2|y",
       "x| |\u0661|\u00B2|y"},
      // A digit since Unicode 17: only to Rust, which parts digits, not to the expressions.
      {"x\U00011DE0.", "x|\U00011DE0.", "x|\U00011DE0|.", "x|\U00011DE0.", "x|\U00011DE0."},
      // Letters and digits since Unicode 16.
      {"\U000105C0a \U00010D40", "\U000105C0a| \U00010D40", "\U000105C0a| |\U00010D40",
       "\U000105C0a| |\U00010D40", "\U000105C0a| |\U00010D40"},
  };
  for (const auto& [text, gpt2, smollm, llama3, qwen2] : cases) {
    EXPECT_EQ(parted("gpt2", text), gpt2);
    EXPECT_EQ(parted("smollm", text), smollm);
    EXPECT_EQ(parted("llama-bpe", text), llama3);
    EXPECT_EQ(parted("qwen2", text), qwen2);
  }
}

TEST(PreTokenizer, IsKnownByItsNamesAndItsExpression) {
  EXPECT_EQ(pre_tokenizer_named("llama-bpe"), PreTokenizer::kLlama3);
  EXPECT_EQ(pre_tokenizer_named("tekken"), std::nullopt);
  EXPECT_EQ(join(pre_tokenizer_names()), "gpt2, smollm, llama3, qwen2");
  for (const auto kind : {PreTokenizer::kGpt2, PreTokenizer::kLlama3, PreTokenizer::kQwen2})
    EXPECT_EQ(pre_tokenizer_of_regex(regex_of(kind)), kind);
}

TEST(PreTokenizer, TakesLinearTimeForLongRuns) {
  using Clock = std::chrono::steady_clock;
  for (const std::string& pre : pre_tokenizer_names())
    for (const std::string unit : {" ", "\n", " \n", "a", "1", ".", "'", "\u3000", "日"}) {
      const auto begin = Clock::now();
      std::string text;
      while (text.size() < 2000000) text += unit;
      for (std::string_view rest = text; !rest.empty();)
        rest.remove_prefix(first_pre_token(*pre_tokenizer_named(pre), rest));
      EXPECT_LT(Clock::now() - begin, std::chrono::seconds(5)) << pre << " '" << unit << "'";
    }
}

TEST(PreTokenizer, PartsOfATextCutAtABorderArePartedAsTheWhole) {
  std::mt19937 random(3);
  size_t cuts = 0;
  for (const std::string& pre : pre_tokenizer_names())
    for (const std::string& text : nasty_byte_bpe_texts(4000)) {
      if (text.size() < 2) continue;
      const PreTokenizer kind = *pre_tokenizer_named(pre);
      // What follows may be out of sight, even in the middle of a code point.
      const size_t seen = 2 + random() % (text.size() - 1);
      const size_t limit = 1 + random() % (std::min(seen, text.size()) - 1);
      const size_t border = last_border(kind, std::string_view(text).substr(0, seen), limit);
      ASSERT_LE(border, limit);
      if (border == 0) continue;
      ++cuts;
      ASSERT_EQ(parted(pre, text.substr(0, border)) + "|" + parted(pre, text.substr(border)),
                parted(pre, text))
          << pre << ", border " << border;
    }
  EXPECT_GT(cuts, 3000);
}

TEST(PreTokenizer, FindsNoBorderWhereItDependsOnWhatIsAround) {
  EXPECT_EQ(last_border(PreTokenizer::kGpt2, "a\n\nb", 3), 0) << "white space before a newline";
  EXPECT_EQ(last_border(PreTokenizer::kLlama3, "a\n\nb", 3), 3);
  EXPECT_EQ(last_border(PreTokenizer::kLlama3, "a\n\u3000b", 3), 0);
  EXPECT_EQ(last_border(PreTokenizer::kLlama3, "a\n\xE3", 2), 0) << "this could be U+3000";
  EXPECT_EQ(last_border(PreTokenizer::kGpt2, "a b", 2), 1);
  EXPECT_EQ(last_border(PreTokenizer::kGpt2, "\u00A0 b", 3), 0);
  EXPECT_EQ(last_border(PreTokenizer::kGpt2, "\x80\x80\x80\x80 b", 5), 4) << "no UTF-8, no crash";
}

TEST(Unicode, ClassesAreThoseOfUnicode16) {
  EXPECT_EQ(char_class(U'é'), CharClass::kLetter);
  EXPECT_EQ(char_class(0x301), CharClass::kOther);
  EXPECT_EQ(char_class(U'½'), CharClass::kNumber);
  EXPECT_EQ(char_class(0x85), CharClass::kWhite);
  EXPECT_EQ(char_class(0x200B), CharClass::kOther);
  EXPECT_EQ(char_class(0x2EBF0), CharClass::kLetter);
  EXPECT_EQ(char_class(0x1CCF0), CharClass::kNumber);
  EXPECT_EQ(char_class(0x323B0), CharClass::kOther) << "a letter since Unicode 17";
  size_t letters = 0, numbers = 0, white = 0;
  for (char32_t c = 0; c < 0x110000; ++c) {
    letters += char_class(c) == CharClass::kLetter;
    numbers += char_class(c) == CharClass::kNumber;
    white += char_class(c) == CharClass::kWhite;
  }
  // As counted with the regular expressions of tokenizers 0.23.
  EXPECT_EQ(letters, 141028);
  EXPECT_EQ(numbers, 1911);
  EXPECT_EQ(white, 25);
}

TEST(Unicode, NormalisesToNfc) {
  EXPECT_EQ(to_nfc("plain, caf\u00E9"), "plain, caf\u00E9");
  EXPECT_EQ(to_nfc("e\u0301 \u1100\u1161"), "\u00E9 \uAC00");
  EXPECT_EQ(to_nfc("\u212B\u0344"), "\u00C5\u0308\u0301");
  EXPECT_EQ(to_utf8(U'é') + to_utf8(0x20AC) + to_utf8(0x1F600), "é€😀");
}

}  // namespace
}  // namespace kvsmith
