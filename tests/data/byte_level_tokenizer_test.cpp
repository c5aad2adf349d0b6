#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/hash.h"
#include "data/build.h"
#include "data/corpus.h"
#include "data/hf_tokenizer.h"
#include "data/text_source.h"
#include "tests/data/small_byte_bpe.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<int32_t>;

class EachPreTokenizer : public testing::TestWithParam<std::string> {
 protected:
  const Tokenizer tokenizer = small_byte_bpe(GetParam());
};
INSTANTIATE_TEST_SUITE_P(ByteLevel,
                         EachPreTokenizer,
                         testing::ValuesIn(pre_tokenizer_names()),
                         [](const auto& test) { return test.param; });

TEST_P(EachPreTokenizer, DecodesToTheTextUnlessItNormalises) {
  EXPECT_EQ(tokenizer.is_lossless(), GetParam() != "qwen2");
  for (const std::string& text : nasty_byte_bpe_texts(3000)) {
    if (!tokenizer.is_lossless() && text.find("\u0301") != text.npos) continue;
    ASSERT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

TEST_P(EachPreTokenizer, PartsCutAtBordersGiveTheIdsOfTheWhole) {
  std::mt19937 random(2);
  size_t cuts = 0;
  for (const std::string& text : nasty_byte_bpe_texts(3000)) {
    if (text.size() < 2) continue;
    const size_t border = tokenizer.last_border(text, 1 + random() % (text.size() - 1));
    if (border == 0) continue;
    ++cuts;
    Ids ids = tokenizer.encode(text.substr(0, border));
    tokenizer.encode_to(ids, text.substr(border), Tokenizer::Begin::kInside);
    ASSERT_EQ(ids, tokenizer.encode(text)) << text;
  }
  EXPECT_GT(cuts, 1000);
}

TEST_P(EachPreTokenizer, ACorpusDoesNotDependOnHowItsTextsWereCut) {
  const TemporaryDirectory folder;
  std::string text;
  for (const std::string& part : nasty_byte_bpe_texts(2000)) text += part + " ";
  std::erase(text, '\0');
  write_text(folder / "text.txt", text);
  write_text(folder / "tokenizer.json", small_tokenizer_json(GetParam()));
  std::vector<std::string> fingerprints;
  for (const uint64_t limit : {uint64_t{4096}, uint64_t{1} << 20}) {
    CorpusBuild build{.train_inputs = {folder / "text.txt"},
                      .valid_inputs = {},
                      .tokenizer = folder / "tokenizer.json",
                      .text = {},
                      .threads = 2};
    build.text.max_document_bytes = limit;
    EXPECT_EQ(build_corpus(build, folder / "c.h5").split_lines, 0);
    const Corpus corpus = Corpus::open(folder / "c.h5");
    EXPECT_EQ(corpus.info().tokenizer_model, tokenizer.bytes());
    EXPECT_EQ(corpus.info().eos_id, 0);
    fingerprints.push_back(corpus.fingerprint());
  }
  EXPECT_EQ(fingerprints[0], fingerprints[1]);
}

TEST_P(EachPreTokenizer, TakesControlTokensForTextUnlessTold) {
  const std::string text = "a<|im_start|>b<tool_call> c";
  const Ids plain = tokenizer.encode(text), special = tokenizer.encode_with_specials(text);
  EXPECT_EQ(std::ranges::count(plain, 1), 0);
  EXPECT_EQ(std::ranges::count(plain, 3), 1) << "no control token";
  EXPECT_EQ(tokenizer.decode(plain), text);
  EXPECT_EQ(special[1], 1);
  EXPECT_EQ(tokenizer.decode(special), "ab<tool_call> c");
}

TEST_P(EachPreTokenizer, ThreadsShareItAndGetTheSameIds) {
  const auto texts = nasty_byte_bpe_texts(300);
  std::vector<Ids> expected;
  for (const auto& text : texts) expected.push_back(tokenizer.encode(text));
  std::vector<std::jthread> threads;
  for (size_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < texts.size(); ++i) {
        const size_t at = (i * 7 + t * 31) % texts.size();
        EXPECT_EQ(tokenizer.encode(texts[at]), expected[at]);
      }
    });
}

TEST_P(EachPreTokenizer, FilesForTransformersSayWhatTheTokenizerDoes) {
  auto parts = small_parts(GetParam(), 10);
  parts.bos_id = 1;
  parts.eos_id = parts.pad_id = 2;
  parts.adds_bos = true;
  parts.chat_template = "{{ '<|im_start|>' }}";
  const auto made = Tokenizer::from_bytes(make_tokenizer_json(parts, "m"), "m");
  EXPECT_EQ(made.bos_id(), 1);
  EXPECT_EQ(made.pad_id(), 2);
  const auto files = hf_tokenizer_files(made, 512);
  EXPECT_EQ(files.size(), 3);
  EXPECT_EQ(files.at("tokenizer.json"), made.bytes());
  const Json config = Json::parse(files.at("tokenizer_config.json"));
  EXPECT_EQ(config["bos_token"], "<|im_start|>");
  EXPECT_EQ(config["chat_template"], parts.chat_template);
  EXPECT_EQ(config["split_special_tokens"], false);
  EXPECT_EQ(config["added_tokens_decoder"].size(), 3);
  EXPECT_EQ(Json::parse(files.at("special_tokens_map.json"))["pad_token"], "<|im_end|>");
  EXPECT_EQ(
      Json::parse(
          hf_tokenizer_files(tokenizer, 512).at("tokenizer_config.json"))["split_special_tokens"],
      true);
}

TEST(ByteLevelTokenizer, KnowsItsIdsAndItsIdentity) {
  const Tokenizer tokenizer = small_byte_bpe("gpt2");
  EXPECT_EQ(tokenizer.sentencepiece(), nullptr);
  EXPECT_EQ(tokenizer.bytes(), small_tokenizer_json("gpt2"));
  EXPECT_EQ(tokenizer.sha256(), sha256(tokenizer.bytes()));
  EXPECT_EQ(tokenizer.bos_id(), -1);
  EXPECT_EQ(tokenizer.eos_id(), 0);
  EXPECT_EQ(tokenizer.unk_id(), -1);
  EXPECT_EQ(tokenizer.special_id("<|im_end|>"), 2);
  EXPECT_EQ(tokenizer.special_id("<tool_call>"), -1) << "no control token";
  const int32_t the = tokenizer.encode(" the")[0];
  EXPECT_EQ(tokenizer.piece(the), "Ġthe");
  EXPECT_EQ(tokenizer.surface(the), " the");
  EXPECT_EQ(tokenizer.surface(2), "");
  EXPECT_FALSE(tokenizer.adds_space());
}

TEST(ByteLevelTokenizer, DecodesBrokenBytesToReplacementsAndRefusesOtherIds) {
  const Tokenizer tokenizer = small_byte_bpe("gpt2");
  EXPECT_EQ(tokenizer.decode(Ids{4 + 0xE2, 4 + 'a', 0, 4 + 0xC3, 4 + 0xA9}), "\uFFFDaé");
  expect_error([&] { tokenizer.decode(Ids{9999}); }, ExitCode::kBadData, "token 9999");
  expect_error([&] { tokenizer.encode("good \xFF"); }, ExitCode::kBadData,
               "invalid UTF-8 at byte 5");
}

TEST(ByteLevelTokenizer, WithoutATokenForAByteItIsNotLosslessAndLeavesItOut) {
  auto parts = small_parts("smollm", 0);
  parts.tokens[4 + 4] = "<unused>";  // of byte 4, as in SmolLM2
  const auto tokenizer = Tokenizer::from_bytes(make_tokenizer_json(parts, "m"), "m");
  EXPECT_FALSE(tokenizer.is_lossless());
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("a\x04z")), "az");
  parts = small_parts("smollm", 0);
  parts.tokens[4 + 0xFF] = "<unused>";
  EXPECT_TRUE(Tokenizer::from_bytes(make_tokenizer_json(parts, "m"), "m").is_lossless())
      << "no text has this byte";
}

TEST(ByteLevelTokenizer, NormalisesBetweenAddedTokens) {
  Json json = Json::parse(small_tokenizer_json("qwen2"));
  const auto add = [&](const char* content, bool is_normalized) {
    json["added_tokens"].push_back(
        {{"id", json["model"]["vocab"].size() + json["added_tokens"].size() - 4},
         {"content", content},
         {"single_word", false},
         {"lstrip", false},
         {"rstrip", false},
         {"normalized", is_normalized},
         {"special", false}});
    return json["added_tokens"].back()["id"].get<int32_t>();
  };
  const int32_t raw = add("e\u0301x", false), normal = add("q\u00E9 z", true);
  const auto tokenizer = Tokenizer::from_bytes(json.dump(), "m");
  EXPECT_EQ(tokenizer.encode("e\u0301xqe\u0301 z"), (Ids{raw, normal}));
  EXPECT_NE(tokenizer.encode("\u00E9x"), Ids{raw});
  EXPECT_EQ(tokenizer.encode("e\u0301"), tokenizer.encode("\u00E9"));
  EXPECT_EQ(tokenizer.last_border("aqe\u0301 zb a", 8), 0) << "a token may lie across";
}

TEST(ByteLevelTokenizer, NoBorderIsWithinAnAddedToken) {
  auto parts = small_parts("gpt2", 0);
  parts.tokens[3] = "end of";
  const auto tokenizer = Tokenizer::from_bytes(make_tokenizer_json(parts, "m"), "m");
  EXPECT_EQ(tokenizer.last_border("an end of it", 7), 2);
  EXPECT_EQ(tokenizer.last_border("an end or it", 7), 6);
}

TEST(ByteLevelTokenizer, TakesNamesAndTemplateFromTheFilesBesideIt) {
  const TemporaryDirectory folder;
  Json json = Json::parse(small_tokenizer_json("gpt2"));
  json["decoder"].erase("kvsmith");
  const std::string bare = json.dump(1);
  write_text(folder / "tokenizer.json", bare);
  EXPECT_EQ(Tokenizer::load(folder / "tokenizer.json").bytes(), bare);
  EXPECT_EQ(Tokenizer::load(folder / "tokenizer.json").eos_id(), 0) << "a well-known name";

  write_text(folder / "tokenizer_config.json",
             R"({"eos_token": {"content": "<|im_end|>"}, "bos_token": null,
                 "pad_token": "<|endoftext|>", "chat_template": [
                   {"name": "tools", "template": "no"}, {"name": "default", "template": "T"}]})");
  const auto tokenizer = Tokenizer::load(folder / "tokenizer.json");
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.pad_id(), 0);
  EXPECT_EQ(tokenizer.bos_id(), -1);
  EXPECT_EQ(tokenizer.chat_template(), "T");
  const Json said = Json::parse(tokenizer.bytes())["decoder"];
  EXPECT_EQ(said["kvsmith"]["eos_token"], "<|im_end|>");
  EXPECT_EQ(said["type"], "ByteLevel");

  write_text(folder / "chat_template.jinja", "J");
  EXPECT_EQ(Tokenizer::load(folder / "tokenizer.json").chat_template(), "J");
  const auto again = Tokenizer::from_bytes(tokenizer.bytes(), "again");
  EXPECT_EQ(again.chat_template(), "T");
  write_text(folder / "tokenizer.json", tokenizer.bytes());
  EXPECT_EQ(Tokenizer::load(folder / "tokenizer.json").bytes(), tokenizer.bytes())
      << "what the file says itself counts";
  write_text(folder / "tokenizer.json", bare);
  write_text(folder / "tokenizer_config.json", R"({"eos_token": "</s>"})");
  expect_error([&] { Tokenizer::load(folder / "tokenizer.json"); }, ExitCode::kBadData,
               "eos_token: found \"</s>\"; expected a token that");
  write_text(folder / "tokenizer_config.json", R"({"pad_token": "<pad>"})");
  EXPECT_EQ(Tokenizer::load(folder / "tokenizer.json").pad_id(), -1);
}

}  // namespace
}  // namespace kvsmith
