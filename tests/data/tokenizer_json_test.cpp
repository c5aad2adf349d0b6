#include "data/tokenizer_json.h"

#include <random>
#include <string>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "tests/data/small_byte_bpe.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

using Json = nlohmann::json;

/// The smallest vocabulary with something in every place: a, b, ab and an added token.
Json tiny() {
  return Json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 3, "content": "<end>", "single_word": false, "lstrip": false,
                      "rstrip": false, "normalized": true, "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
    "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
              "end_of_word_suffix": "", "fuse_unk": false,
              "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})");
}

TokenizerJson parsed(const Json& json) { return parse_tokenizer_json(json.dump(), "t.json"); }

TEST(TokenizerJson, ReadsModelAndSteps) {
  const auto json = parsed(tiny());
  EXPECT_EQ(join(json.pieces), "a, b, ab, <end>");
  ASSERT_EQ(json.merges.size(), 1);
  EXPECT_EQ(json.merges[0].result, 2);
  EXPECT_EQ(json.pre_tokenizer, PreTokenizer::kGpt2);
  EXPECT_FALSE(json.normalizes || json.takes_whole_words || json.adds_bos);
  EXPECT_TRUE(json.added.at(0).is_special && json.added[0].is_normalized);
  EXPECT_EQ(json.eos_id, -1) << "no well-known name";
}

TEST(TokenizerJson, ReadsTheFourFamilies) {
  for (const std::string& pre : pre_tokenizer_names()) {
    const auto json = parse_tokenizer_json(small_tokenizer_json(pre), pre);
    EXPECT_EQ(json.pre_tokenizer, *pre_tokenizer_named(pre));
    EXPECT_EQ(json.normalizes, pre == "qwen2");
    EXPECT_EQ(json.takes_whole_words, pre == "llama3");
    EXPECT_EQ(join(json.pieces), join(small_parts(pre).tokens));
  }
}

TEST(TokenizerJson, ReadsMergesOfBothKindsAndBeginOfText) {
  Json json = tiny();
  json["model"]["merges"] = Json::array({Json::array({"a", "b"})});
  json["model"]["unk_token"] = "a";
  const Json special{{"SpecialToken", {{"id", "<end>"}, {"type_id", 0}}}};
  const Json text{{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  json["post_processor"] = {
      {"type", "Sequence"},
      {"processors",
       {json["post_processor"],
        {{"type", "TemplateProcessing"}, {"single", {special, text, special}}, {"pair", {}}}}}};
  const auto read = parsed(json);
  EXPECT_EQ(read.merges.at(0).right, 1);
  EXPECT_EQ(read.unk_id, 0);
  EXPECT_EQ(read.bos_id, 3);
  EXPECT_TRUE(read.adds_bos);
  json["decoder"]["kvsmith"] = {{"eos_token", "<end>"}};
  EXPECT_EQ(parsed(json).bos_id, 3);
  json["added_tokens"].push_back(json["added_tokens"][0]);
  json["added_tokens"][1]["id"] = 4;
  json["added_tokens"][1]["content"] = "<other>";
  json["decoder"]["kvsmith"] = {{"bos_token", "<other>"}};
  expect_error([&] { parsed(json); }, ExitCode::kBadData, "as in post_processor");
}

TEST(TokenizerJson, RefusesWhatIsDamagedAndSaysWhere) {
  const struct {
    const char *path, *value, *error;
  } cases[] = {
      {"/model", "null", "t.json: model: found null; expected an object"},
      {"/model/vocab", "[1]", "t.json: model.vocab: found [1]; expected an object"},
      {"/model/vocab", "{}", "no token has the id 0"},
      {"/model/vocab/ab", "-1", "model.vocab.ab: found -1; expected a whole number from 0"},
      {"/model/vocab/ab", "1048576", "model.vocab.ab: found 1048576; expected"},
      {"/model/vocab/ab", "1e30", "model.vocab.ab"},
      {"/model/vocab/ab", "18446744073709551615", "model.vocab.ab"},
      {"/model/vocab/ab", "\"2\"", "model.vocab.ab: found \"2\""},
      {"/model/vocab/ab", "1", "an id of its own"},
      {"/model/vocab/ab", "9", "no token has the id 2 of 10"},
      {"/model/vocab/", "2", "tokens of 1 to 4096 bytes"},
      {"/model/merges", "{}", "t.json: model.merges: found {}; expected a list"},
      {"/model/merges", "[\"a c\"]",
       "model.merges[0]: found \"a c\"; expected tokens of the vocabulary; \"c\" is none"},
      {"/model/merges", "[\"b a\"]", "\"ba\" is none"},
      {"/model/merges", "[\"ab\"]", "two tokens with a space between them"},
      {"/model/merges", "[\"a  b\"]", "two tokens with a space between them"},
      {"/model/merges", "[\"a b\", [\"a\", \"b\"]]",
       "merges[1]: found [\"a\",\"b\"]; expected each"},
      {"/model/merges", "[[\"a\"]]", "merges[0]: found [\"a\"]; expected two tokens"},
      {"/model/merges", "[[\"a\", 1]]", "merges[0][1]: found 1; expected a text"},
      {"/model/merges", "[\"<end> a\"]", "\"<end>\" is none"},
      {"/model/unk_token", "\"c\"", "model.unk_token: found \"c\"; expected a token"},
      {"/model/ignore_merges", "1", "model.ignore_merges: found 1; expected true or false"},
      {"/added_tokens", "3", "t.json: added_tokens: found 3; expected a list"},
      {"/added_tokens/0/id", "2", "an id of its own, 2 is that of \"ab\""},
      {"/added_tokens/0/id", "5", "no token has the id 3 of 6"},
      {"/added_tokens/0/id", "-3", "added_tokens[0].id: found -3"},
      {"/added_tokens/0/content", "\"ab\"", "added_tokens[0].id: found 3; expected 2"},
      {"/added_tokens/0/content", "\"\"", "added_tokens[0].content"},
      {"/added_tokens/0/special", "\"yes\"", "added_tokens[0].special"},
      {"/pre_tokenizer", "null", "pre_tokenizer: found null"},
      {"/decoder/kvsmith", "[]", "decoder.kvsmith: found []; expected an object"},
      {"/decoder/kvsmith", "{\"eos_token\": \"a\"}", "decoder.kvsmith.eos_token: found \"a\""},
  };
  for (const auto& [path, value, error] : cases) {
    Json json = tiny();
    json[Json::json_pointer(path)] = Json::parse(value);
    expect_error([&] { parsed(json); }, ExitCode::kBadData, error);
  }
  for (const char* path :
       {"/model", "/model/vocab", "/model/merges", "/added_tokens/0/id", "/added_tokens/0/content",
        "/decoder", "/pre_tokenizer", "/pre_tokenizer/type"}) {
    const Json without = tiny().patch({{{"op", "remove"}, {"path", path}}});
    expect_error([&] { parsed(without); }, ExitCode::kBadData, "no \"");
  }
}

TEST(TokenizerJson, RefusesWhatIsNotSupportedAndSaysWhatIs) {
  const struct {
    const char *path, *value, *error;
  } cases[] = {
      {"/model/type", "\"WordPiece\"",
       "t.json: model.type: found \"WordPiece\"; only \"BPE\" is supported"},
      {"/model/dropout", "0.1", "model.dropout: found 0.1; only 0.0 is supported"},
      {"/model/byte_fallback", "true", "model.byte_fallback"},
      {"/model/fuse_unk", "true", "model.fuse_unk"},
      {"/model/end_of_word_suffix", "\"</w>\"", "model.end_of_word_suffix"},
      {"/model/more", "1", "model.more: found 1; only type, dropout, unk_token"},
      {"/more", "{}", "t.json: more: found {}"},
      {"/truncation", "{\"max_length\": 5}", "truncation: found {\"max_length\":5}; only null"},
      {"/added_tokens/0/lstrip", "true", "added_tokens[0].lstrip: found true; only false"},
      {"/normalizer", "{\"type\": \"NFKC\"}",
       "normalizer.type: found \"NFKC\"; only NFC, or none, is supported"},
      {"/pre_tokenizer/type", "\"Metaspace\"",
       "pre_tokenizer.type: found \"Metaspace\"; only ByteLevel and Sequence are supported"},
      {"/pre_tokenizer/add_prefix_space", "true", "pre_tokenizer.add_prefix_space"},
      {"/pre_tokenizer/use_regex", "false", "pre_tokenizer.use_regex: found false"},
      {"/pre_tokenizer",
       "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": "
       "{\"Regex\": \"\\\\w+\"}, \"behavior\": \"Isolated\", \"invert\": false}, {\"type\": "
       "\"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}]}",
       "pretokenizers[0].pattern.Regex: found \"\\\\w+\"; only the expressions of gpt2, smollm"},
      {"/pre_tokenizer",
       "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", "
       "\"individual_digits\": false}, {\"type\": \"ByteLevel\"}]}",
       "pretokenizers[0].individual_digits: found false; only true"},
      {"/pre_tokenizer", "{\"type\": \"Sequence\", \"pretokenizers\": []}", "only Digits or Split"},
      {"/post_processor", "{\"type\": \"BertProcessing\"}", "post_processor.type"},
      {"/decoder/type", "\"Metaspace\"", "decoder.type: found \"Metaspace\"; only ByteLevel"},
      {"/decoder/kvsmith", "{\"sep_token\": \"<end>\"}", "decoder.kvsmith.sep_token"},
  };
  for (const auto& [path, value, error] : cases) {
    Json json = tiny();
    json[Json::json_pointer(path)] = Json::parse(value);
    expect_error([&] { parsed(json); }, ExitCode::kConfig, error);
  }
}

TEST(TokenizerJson, RefusesWhatIsNoJson) {
  const std::string whole = tiny().dump();
  for (size_t end = 1; end < whole.size(); ++end)
    expect_error([&] { parse_tokenizer_json(whole.substr(0, end), "t.json"); }, ExitCode::kBadData,
                 "t.json: malformed JSON at byte");
  const std::string deep = "{\"a\": " + std::string(1000000, '[');
  expect_error([&] { parse_tokenizer_json(deep, "t.json"); }, ExitCode::kBadData,
               "more than 16 levels");
  expect_error([&] { parse_tokenizer_json("{\"a\": \"\xFF\"}", "t.json"); }, ExitCode::kBadData,
               "malformed JSON at byte 8");
}

TEST(TokenizerJson, DamageIsAnErrorOrATokenizerNeverACrash) {
  std::mt19937 random(4);
  const std::string whole = small_tokenizer_json("llama3");
  for (int i = 0; i < 400; ++i) {
    std::string damaged = whole;
    for (size_t n = 1 + random() % 3; n > 0; --n) {
      const size_t at = random() % damaged.size();
      if (random() % 2 == 0) {
        damaged[at] = static_cast<char>(random());
      } else {
        damaged.erase(at, random() % 40);
      }
    }
    try {
      Tokenizer::from_bytes(damaged, "damaged").encode("some text, <|im_end|>\n\n 123");
    } catch (const Error& error) {
      EXPECT_TRUE(error.code() == ExitCode::kBadData || error.code() == ExitCode::kConfig);
    }
  }
}

TEST(TokenizerJson, IsToldFromASentencePieceModel) {
  EXPECT_TRUE(is_tokenizer_json(" \r\n\t{ \"version\""));
  EXPECT_TRUE(is_tokenizer_json("{}"));
  EXPECT_FALSE(is_tokenizer_json(small_model()));
  EXPECT_FALSE(is_tokenizer_json("\n{\n\x74<unk>")) << "a piece whose message has 123 bytes";
  EXPECT_FALSE(is_tokenizer_json(""));
}

TEST(TokenizerJsonWriter, RefusesPartsThatDoNotBelongTogether) {
  const auto with = [](auto&& change) {
    return [change] {
      auto parts = small_parts("gpt2", 3);
      change(parts);
      make_tokenizer_json(parts, "x.gguf");
    };
  };
  expect_error(with([](auto& p) { p.pre = "tekken"; }), ExitCode::kConfig,
               "x.gguf: the pre-tokenizer \"tekken\"; supported are gpt2, smollm, llama3, qwen2");
  expect_error(with([](auto& p) { p.token_types.pop_back(); }), ExitCode::kBadData,
               "262 token types for 263 tokens");
  expect_error(with([](auto& p) { p.tokens[7] = p.tokens[6]; }), ExitCode::kBadData,
               "is there twice");
  expect_error(with([](auto& p) { p.tokens[7] = "\xFF"; }), ExitCode::kBadData,
               "token 7 is not UTF-8");
  expect_error(with([](auto& p) { p.merges[1] = "\xFF a"; }), ExitCode::kBadData,
               "merge 1 is not UTF-8");
  expect_error(with([](auto& p) { p.merges[1] = "x yzz"; }), ExitCode::kBadData,
               "x.gguf: model.merges[1]: found \"x yzz\"");
  expect_error(with([](auto& p) { p.token_types[9] = 7; }), ExitCode::kBadData, "of type 7");
  expect_error(with([](auto& p) { p.bos_id = 263; }), ExitCode::kBadData,
               "control token 263 in a vocabulary of 263");
  expect_error(with([](auto& p) { p.adds_bos = true; }), ExitCode::kBadData, "is not there");
}

TEST(TokenizerJsonWriter, UnusedTokensAreInNoText) {
  auto parts = small_parts("qwen2", 3);
  parts.tokens.emplace_back("[PAD263]");
  parts.token_types.push_back(TokenizerParts::kUnused);
  const auto tokenizer = Tokenizer::from_bytes(make_tokenizer_json(parts, "m"), "m");
  EXPECT_EQ(tokenizer.vocab_size(), 264);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("[PAD263]")), "[PAD263]");
}

}  // namespace
}  // namespace kvsmith
