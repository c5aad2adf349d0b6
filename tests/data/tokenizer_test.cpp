#include "data/tokenizer.h"

#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include "core/hash.h"
#include "core/text.h"
#include "tests/data/model_bytes.h"
#include "tests/data/small_tokenizer.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

constexpr const char* kSpaceSymbol = "\u2581";

std::vector<int> library_ids(const std::string& model, const std::string& text) {
  sentencepiece::SentencePieceProcessor processor;
  EXPECT_TRUE(processor.LoadFromSerializedProto(model).ok());
  return processor.EncodeAsIds(text);
}

class WithAndWithoutDummyPrefix : public testing::TestWithParam<bool> {
 protected:
  const std::string model = small_model() + (GetParam() ? kDummyPrefix : "");
  const Tokenizer tokenizer = Tokenizer::from_bytes(model, "m");
};
INSTANTIATE_TEST_SUITE_P(Tokenizer, WithAndWithoutDummyPrefix, testing::Bool());

TEST_P(WithAndWithoutDummyPrefix, GivesTheIdsOfTheLibraryForWholeTexts) {
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.LoadFromSerializedProto(model).ok());
  for (const std::string& text : nasty_texts(5000)) {
    if (text.find(kSpaceSymbol) != text.npos) continue;
    std::vector<int> expected;
    ASSERT_TRUE(library.Encode(text, &expected).ok());
    ASSERT_EQ(tokenizer.encode(text), expected) << text;
  }
}

TEST_P(WithAndWithoutDummyPrefix, DecodingGivesBackEveryText) {
  EXPECT_TRUE(tokenizer.is_lossless());
  for (const std::string& text : nasty_texts(5000))
    ASSERT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

TEST_P(WithAndWithoutDummyPrefix, PartsCutAtBordersOfWordsGiveTheIdsOfTheWhole) {
  for (const std::string& text : nasty_texts(1000)) {
    const auto whole = tokenizer.encode(text);
    for (size_t at = 1; at + 1 < text.size(); ++at) {
      const bool before_word = text[at] == ' ' && text[at - 1] != ' ';
      if (!before_word && text[at - 1] != '\n') continue;
      auto ids = tokenizer.encode(text.substr(0, at));
      tokenizer.encode_to(ids, text.substr(at), Tokenizer::Begin::kInside);
      ASSERT_EQ(ids, whole) << "cut at " << at << " of: " << text;
    }
  }
}

TEST_P(WithAndWithoutDummyPrefix, ALiteralSpaceSymbolIsEncodedByItsBytes) {
  const auto ids = tokenizer.encode(cat("the", kSpaceSymbol));
  ASSERT_GE(ids.size(), 3);
  std::vector<std::string> last;
  for (const int32_t id : std::vector(ids.end() - 3, ids.end()))
    last.push_back(tokenizer.piece(id));
  EXPECT_EQ(last, (std::vector<std::string>{"<0xE2>", "<0x96>", "<0x81>"}));
}

TEST(Tokenizer, GivesTheIdsOfTheLibraryForTheSharedCorpora) {
  const std::filesystem::path corpora =
      std::filesystem::path(KVSMITH_SOURCE_DIR) / "../shared/corpora";
  if (!std::filesystem::exists(corpora)) GTEST_SKIP() << "no shared corpora here";
  const Tokenizer tokenizer = small_tokenizer();
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.LoadFromSerializedProto(tokenizer.bytes()).ok());
  for (const auto& entry : std::filesystem::recursive_directory_iterator(corpora)) {
    if (entry.path().extension() != ".txt") continue;
    const std::string text = read_file(entry.path()).substr(0, 50000);
    const std::string whole = text.substr(0, text.rfind(' '));
    std::vector<int> expected;
    ASSERT_TRUE(library.Encode(whole, &expected).ok());
    EXPECT_EQ(tokenizer.encode(whole), expected) << entry.path();
    EXPECT_EQ(tokenizer.decode(expected), whole) << entry.path();
  }
}

TEST(Tokenizer, ThreadsShareItAndGetTheSameIds) {
  const Tokenizer tokenizer = small_tokenizer();
  const auto texts = nasty_texts(300);
  std::vector<std::vector<int32_t>> expected;
  for (const auto& text : texts) expected.push_back(small_tokenizer().encode(text));
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < texts.size(); ++i) {
        const size_t at = (i * 7 + static_cast<size_t>(t) * 31) % texts.size();
        EXPECT_EQ(tokenizer.encode(texts[at]), expected[at]);
      }
    });
}

TEST(Tokenizer, AModelThatChangesTextEncodesAsTheLibraryAndSaysSo) {
  const std::string model = small_model() + kRemoveSpaces;
  const Tokenizer tokenizer = Tokenizer::from_bytes(model, "m");
  EXPECT_FALSE(tokenizer.is_lossless());
  for (const std::string text : {"  the   times ", "a\u2581b", "a\n b"})
    EXPECT_EQ(tokenizer.encode(text), library_ids(model, text));
}

/// Tokens of the text, cut wherever the tokenizer says that it may be.
std::vector<int32_t> in_parts(const Tokenizer& tokenizer, std::string_view text, size_t limit) {
  std::vector<int32_t> ids;
  auto begin = Tokenizer::Begin::kText;
  while (text.size() > limit) {
    const size_t border = tokenizer.last_border(text, limit);
    if (border == 0) break;
    tokenizer.encode_to(ids, text.substr(0, border), begin);
    text.remove_prefix(border);
    begin = Tokenizer::Begin::kInside;
  }
  tokenizer.encode_to(ids, text, begin);
  return ids;
}

TEST(Tokenizer, CutsTextsOnlyWhereTheirIdsStayTheSame) {
  const std::string spanning = kUnk + kControls + byte_pieces(256) + piece("of", -1) +
                               piece("\u2581the", -2) + piece("of\u2581the", -3) + kFallback +
                               kBpe + kNoDummyPrefix + kKeepSpaces;
  for (const std::string& model :
       {small_model(), small_model() + kDummyPrefix, small_model() + kRemoveSpaces,
        small_model() + kDummyPrefix + kRemoveSpaces, spanning}) {
    const auto tokenizer = Tokenizer::from_bytes(model, "m");
    for (const std::string& text :
         {std::string("it was  of the of the\nof times \n haha of the end"), sample_text()}) {
      const auto part = text.substr(0, text.rfind('\n', 3000));
      for (const size_t limit : {7U, 30U})
        EXPECT_EQ(in_parts(tokenizer, part, limit), library_ids(model, part));
    }
  }
  EXPECT_EQ(Tokenizer::from_bytes(spanning, "m").last_border("of the of the", 9), 0);
}

TEST(Tokenizer, KnowsItsIdsAndItsIdentity) {
  const Tokenizer tokenizer = small_tokenizer();
  EXPECT_EQ(tokenizer.vocab_size(), 600);
  EXPECT_EQ(tokenizer.piece(tokenizer.unk_id()), "<unk>");
  EXPECT_EQ(tokenizer.piece(tokenizer.bos_id()), "<s>");
  EXPECT_EQ(tokenizer.piece(tokenizer.eos_id()), "</s>");
  EXPECT_TRUE(tokenizer.bytes() == small_model());
  EXPECT_EQ(tokenizer.sha256(), sha256(small_model()));
}

TEST(Tokenizer, TakesControlTokensForTextUnlessTold) {
  const Tokenizer tokenizer = small_tokenizer();
  const std::string text = "the<s> times</s>";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  std::vector<int32_t> expected = tokenizer.encode("the");
  expected.push_back(tokenizer.bos_id());
  tokenizer.encode_to(expected, " times", Tokenizer::Begin::kInside);
  expected.push_back(tokenizer.eos_id());
  EXPECT_EQ(tokenizer.encode_with_specials(text), expected);
  EXPECT_EQ(tokenizer.special_id("</s>"), tokenizer.eos_id());
  EXPECT_EQ(tokenizer.special_id("the"), -1);
}

TEST(Tokenizer, DecodesControlTokensToNothingAndBrokenBytesToReplacements) {
  const Tokenizer tokenizer = small_tokenizer();
  const auto byte = [](int value) { return 3 + value; };
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{1, byte('a'), 2}), "a");
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{byte(0xE2), byte('a'), byte(0xC3), byte(0xA9)}),
            "\uFFFDaé");
}

TEST(Tokenizer, RefusesWhatIsNoTextAndNoToken) {
  const Tokenizer tokenizer = small_tokenizer();
  expect_error([&] { tokenizer.encode("good \xFF"); }, ExitCode::kBadData,
               "invalid UTF-8 at byte 5");
  expect_error([&] { tokenizer.decode(std::vector<int32_t>{600}); }, ExitCode::kBadData,
               "token 600 in a vocabulary of 600");
  expect_error([&] { tokenizer.decode(std::vector<int32_t>{-1}); }, ExitCode::kBadData, "token -1");
  expect_error([] { Tokenizer::load("/nowhere/x.model"); }, ExitCode::kMissingInput, "x.model");
}

}  // namespace
}  // namespace kvsmith
