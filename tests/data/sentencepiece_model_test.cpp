#include "data/sentencepiece_model.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sentencepiece_trainer.h>

#include "tests/data/model_bytes.h"
#include "tests/data/small_tokenizer.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

TEST(SentencePieceModel, SaysWhatTheTrainedModelIs) {
  const auto model = parse_sentencepiece_model(small_model(), "small.model");
  EXPECT_EQ(model.pieces.size(), 600);
  EXPECT_EQ(model.algorithm, SentencePieceModel::Algorithm::kBpe);
  EXPECT_EQ(model.normalizer, "identity");
  EXPECT_TRUE(model.byte_fallback && model.lossless());
  EXPECT_FALSE(model.add_dummy_prefix || model.remove_extra_whitespaces);
  EXPECT_EQ(std::vector({model.unk_id, model.bos_id, model.eos_id}), (std::vector{0, 1, 2}));
  EXPECT_EQ(model.pieces[3].text, "<0x00>");
}

TEST(SentencePieceModel, NamesTheBadPiece) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const struct {
    std::string model, error;
  } cases[] = {
      {"", "no pieces"},
      {kUnk + piece("a") + piece("b") + piece("a"), "m: piece 3: \"a\" is there twice"},
      {kUnk + piece("a", nan), "m: piece 1: its score is not a finite number"},
      {kUnk + piece("a", INFINITY), "m: piece 1: its score"},
      {kUnk + piece(""), "m: piece 1: has no text"},
      {kUnk + piece(std::string(5000, 'x')), "m: piece 1: 5000 bytes long"},
      {kUnk + piece("\xC3\x28"), "is not UTF-8"},
      {kUnk + piece(std::string("a\0b", 3)), "m: piece 1: contains a NUL"},
      {kUnk + piece("a", 0, 9), "m: piece 1: type 9"},
      {kUnk + piece("<0xZZ>", 0, 6), "has the type of a byte"},
      {piece("a"), "0 unknown pieces"},
      {kUnk + piece("?", 0, 2), "2 unknown pieces"},
      {kUnk + byte_pieces(255) + kFallback, "255 of 256 byte pieces, and byte fallback is on"},
      {kUnk + byte_pieces(256), "256 of 256 byte pieces, and byte fallback is off"},
      {kUnk + "\x0A\x7F", "a field of 127 bytes where 0 are left"},
      {kUnk + "\x0B", "wire type 3"},
      {kUnk + std::string(11, '\xFF'), "a number of more than 10 bytes"},
      {kUnk + std::string(1, '\0'), "field number out of range"}};
  for (const auto& [model, error] : cases)
    expect_error([&] { parse_sentencepiece_model(model, "m"); }, ExitCode::kBadData, error);
  EXPECT_NO_THROW(parse_sentencepiece_model(kUnk + byte_pieces(256) + kFallback, "m"));
}

TEST(SentencePieceModel, EveryTruncationOfTheFrontIsRefusedOrHarmless) {
  const std::string& whole = small_model();
  for (size_t size = 0; size < whole.size(); size += 7) {
    try {
      Tokenizer::from_bytes(whole.substr(0, size), "cut.model").encode("the times");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadData) << error.what();
    }
  }
}

TEST(SentencePieceModel, DamagedModelsGiveErrorsAndNotCrashes) {
  std::mt19937 random(3);
  int refused = 0;
  for (int i = 0; i < 1500; ++i) {
    std::string model = small_model();
    for (size_t n = 1 + random() % 4; n > 0; --n)
      model[random() % model.size()] = static_cast<char>(random());
    try {
      const auto tokenizer = Tokenizer::from_bytes(std::move(model), "bad.model");
      tokenizer.decode(tokenizer.encode("It was the best of times 1859."));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kBadData) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 300) << "flips inside texts and scores are legal; lengths and tags are not";
}

TEST(SentencePieceModel, ACharsmapIsAcceptedWholeAndRefusedWhenItsOffsetsLeaveIt) {
  std::string nmt;
  struct Lines : sentencepiece::SentenceIterator {
    std::vector<std::string> lines{100, "a few words to learn from"};
    size_t at = 0;
    bool done() const override { return at == lines.size(); }
    void Next() override { ++at; }
    const std::string& value() const override { return lines[at]; }
    sentencepiece::util::Status status() const override { return {}; }
  } lines;
  ASSERT_TRUE(sentencepiece::SentencePieceTrainer::Train({{"model_type", "bpe"},
                                                          {"vocab_size", "30"},
                                                          {"hard_vocab_limit", "false"},
                                                          {"minloglevel", "4"}},
                                                         &lines, &nmt)
                  .ok());
  const auto model = parse_sentencepiece_model(nmt, "nmt.model");
  EXPECT_EQ(model.normalizer, "nmt_nfkc");
  EXPECT_GT(model.charsmap_bytes, 100000);
  EXPECT_FALSE(model.lossless());

  const size_t units = nmt.find("nmt_nfkc") + 8 + 1 + 3 + 4;  // tag, length, size of the trie
  std::string bad = nmt;
  std::memset(bad.data() + units + 400, 0x7C, 4);  // an inner unit with a huge offset
  expect_error([&] { parse_sentencepiece_model(bad, "nmt.model"); }, ExitCode::kBadData,
               "points outside the trie");
  bad = nmt;
  std::memset(bad.data() + units - 4, 0xFF, 4);
  expect_error([&] { parse_sentencepiece_model(bad, "nmt.model"); }, ExitCode::kBadData,
               "a trie of");
}

}  // namespace
}  // namespace kvsmith
