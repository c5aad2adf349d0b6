#include "data/sentencepiece_writer.h"

#include <gtest/gtest.h>

#include "data/tokenizer.h"
#include "tests/data/small_tokenizer.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

TEST(SentencePieceWriter, SaysWhatTheModelSays) {
  const SentencePieceModel model = *small_tokenizer().sentencepiece();
  const std::string bytes = sentencepiece_model_bytes(model);
  const SentencePieceModel back = parse_sentencepiece_model(bytes, "written");
  ASSERT_EQ(back.pieces.size(), model.pieces.size());
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    EXPECT_EQ(back.pieces[i].text, model.pieces[i].text);
    EXPECT_EQ(back.pieces[i].score, model.pieces[i].score);
    EXPECT_EQ(back.pieces[i].type, model.pieces[i].type);
  }
  EXPECT_EQ(back.algorithm, model.algorithm);
  EXPECT_EQ(back.byte_fallback, model.byte_fallback);
  EXPECT_EQ(back.unk_id, model.unk_id);
  EXPECT_EQ(back.bos_id, model.bos_id);
  EXPECT_EQ(back.eos_id, model.eos_id);
  EXPECT_EQ(back.unk_surface, model.unk_surface);
  EXPECT_EQ(back.normalizer, model.normalizer);
  EXPECT_EQ(back.add_dummy_prefix, model.add_dummy_prefix);
  EXPECT_EQ(back.remove_extra_whitespaces, model.remove_extra_whitespaces);
  EXPECT_EQ(back.escape_whitespaces, model.escape_whitespaces);
  EXPECT_TRUE(back.lossless());
  EXPECT_EQ(sentencepiece_model_bytes(back), bytes);
}

TEST(SentencePieceWriter, TheLibraryEncodesAlike) {
  const Tokenizer tokenizer = small_tokenizer();
  const auto written =
      Tokenizer::from_bytes(sentencepiece_model_bytes(*tokenizer.sentencepiece()), "written");
  for (const auto& text : nasty_texts(500))
    EXPECT_EQ(written.encode(text), tokenizer.encode(text)) << text;
}

TEST(SentencePieceWriter, AModelMayHaveNoBeginAndEnd) {
  SentencePieceModel model = *small_tokenizer().sentencepiece();
  model.bos_id = model.eos_id = -1;
  model.add_dummy_prefix = !model.add_dummy_prefix;
  const auto back = parse_sentencepiece_model(sentencepiece_model_bytes(model), "written");
  EXPECT_EQ(back.bos_id, -1);
  EXPECT_EQ(back.eos_id, -1);
  EXPECT_EQ(back.add_dummy_prefix, model.add_dummy_prefix);
}

TEST(SentencePieceWriter, TakesInWhatHuggingFaceKeepsBeside) {
  const TemporaryDirectory folder;
  write_file(folder / "tokenizer.model", small_model());
  EXPECT_EQ(Tokenizer::load(folder / "tokenizer.model").bytes(), small_model());

  write_file(folder / "added_tokens.json", R"({"<|im_end|>": 601, "<|im_start|>": 600})");
  write_file(folder / "tokenizer_config.json",
             R"({"add_bos_token": false, "chat_template": "<|im_start|>", "added_tokens_decoder": {
                 "0": {"content": "<unk>", "special": true},
                 "601": {"content": "<|im_end|>", "special": true},
                 "602": {"content": "<tool>", "special": false}}})");
  const auto tokenizer = Tokenizer::load(folder / "tokenizer.model");
  EXPECT_EQ(tokenizer.vocab_size(), 603);
  EXPECT_EQ(tokenizer.special_id("<|im_start|>"), 600);
  EXPECT_EQ(tokenizer.special_id("<|im_end|>"), 601);
  EXPECT_EQ(tokenizer.bos_id(), -1);
  EXPECT_EQ(tokenizer.chat_template(), "<|im_start|>");
  EXPECT_EQ(tokenizer.encode("a<tool>")[1], 602);
  EXPECT_EQ(tokenizer.encode("the times"), small_tokenizer().encode("the times"));
  // one file tells all, and again
  EXPECT_EQ(sentencepiece_model_bytes(*tokenizer.sentencepiece()),
            sentencepiece_model_bytes(parse_sentencepiece_model(tokenizer.bytes(), "again")));
  write_file(folder / "tokenizer.model", tokenizer.bytes());
  EXPECT_EQ(Tokenizer::load(folder / "tokenizer.model").bytes(), tokenizer.bytes());

  write_file(folder / "tokenizer.model", small_model());
  write_file(folder / "added_tokens.json", R"({"<|im_start|>": 600, "<far>": 700})");
  expect_error([&] { Tokenizer::load(folder / "tokenizer.model"); }, ExitCode::kConfig,
               "is added as 700, and 603 is none");
  write_file(folder / "added_tokens.json", R"({"<odd>": "x"})");
  expect_error([&] { Tokenizer::load(folder / "tokenizer.model"); }, ExitCode::kBadData,
               "added_tokens.json beside");
}

}  // namespace
}  // namespace kvsmith
