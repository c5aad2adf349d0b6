#include "data/hf_tokenizer.h"

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "core/text.h"
#include "data/sentencepiece_writer.h"
#include "data/utf8.h"
#include "tests/data/model_bytes.h"
#include "tests/data/small_tokenizer.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

using Json = nlohmann::json;

/// What `tokenizers` does with the BPE model of a tokenizer.json: the pair of the lowest rank is
/// merged first, the leftmost of those with the same rank.
class HfBpe {
 public:
  explicit HfBpe(const Json& json) : vocab_(json["model"]["vocab"]), prefix_(json["normalizer"]) {
    int rank = 0;
    for (const auto& pair : json["model"]["merges"]) ranks_[{pair[0], pair[1]}] = rank++;
  }

  std::vector<int32_t> encode(std::string text) const {
    if (!prefix_.is_null() && !text.empty()) text = prefix_["prepend"].get<std::string>() + text;
    std::vector<std::string> symbols;
    for (size_t at = 0, end = 0; at < text.size(); at = end) {
      for (end = at + 1; end < text.size() && utf8_border(text, end) != end;) ++end;
      const std::string symbol = text.substr(at, end - at);
      if (vocab_.contains(symbol)) {
        symbols.push_back(symbol);
        continue;
      }
      for (const char c : symbol) {
        char name[8];
        std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned char>(c));
        symbols.emplace_back(name);
      }
    }
    while (true) {
      auto best = ranks_.end();
      size_t place = 0;
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto found = ranks_.find({symbols[i], symbols[i + 1]});
        if (found == ranks_.end() || (best != ranks_.end() && found->second >= best->second))
          continue;
        best = found;
        place = i;
      }
      if (best == ranks_.end()) break;
      symbols[place] += symbols[place + 1];
      symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(place) + 1);
    }
    std::vector<int32_t> ids;
    for (const auto& symbol : symbols) ids.push_back(vocab_.at(symbol));
    return ids;
  }

 private:
  Json vocab_, prefix_;
  std::map<std::pair<std::string, std::string>, int> ranks_;
};

TEST(HfTokenizer, TokenizerJsonGivesOurIds) {
  for (const auto& prefix : {std::string(), kDummyPrefix}) {
    const auto tokenizer = Tokenizer::from_bytes(small_model() + prefix, "m");
    const auto files = hf_tokenizer_files(tokenizer, 512);
    const HfBpe bpe(Json::parse(files.at("tokenizer.json")));
    for (const std::string& text : nasty_texts(3000)) {
      if (text.size() > 400) continue;
      ASSERT_EQ(bpe.encode(text), tokenizer.encode(text)) << text;
    }
  }
}

TEST(HfTokenizer, TheOrderOfPairsThatGiveOnePieceDoesNotMatter) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    // Pieces that overlap themselves and can be made in many ways: strings over {a, b}.
    std::vector<std::string> texts{"a", "b"};
    for (int i = 0; i < 10; ++i) {
      const std::string joined = texts[random() % texts.size()] + texts[random() % texts.size()];
      if (joined.size() < 8 && std::ranges::find(texts, joined) == texts.end())
        texts.push_back(joined);
    }
    if (round % 2 == 1) std::shuffle(texts.begin(), texts.end(), random);
    std::string model = kUnk + kControls + byte_pieces(256);
    float score = 0;
    for (const auto& text : texts) model += piece(text, score--);
    const auto tokenizer =
        Tokenizer::from_bytes(model + kFallback + kBpe + kNoDummyPrefix + kKeepSpaces, "m");
    const HfBpe bpe(Json::parse(hf_tokenizer_files(tokenizer, 512).at("tokenizer.json")));
    for (int i = 0; i < 60; ++i) {
      std::string part, text;
      for (size_t n = 1 + random() % 12; n > 0; --n) part += random() % 4 == 0 ? 'b' : 'a';
      while (text.size() < 20) text += part;
      text[random() % text.size()] = 'b';
      ASSERT_EQ(bpe.encode(text), tokenizer.encode(text)) << text;
    }
  }
}

TEST(HfTokenizer, FilesSayWhatTransformersNeeds) {
  const auto tokenizer = small_tokenizer();
  const auto files = hf_tokenizer_files(tokenizer, 512);
  EXPECT_EQ(files.size(), 4);
  EXPECT_TRUE(files.at("tokenizer.model") == small_model());

  const Json config = Json::parse(files.at("tokenizer_config.json"));
  EXPECT_EQ(config["tokenizer_class"], "PreTrainedTokenizerFast");
  EXPECT_EQ(config["model_max_length"], 512);
  EXPECT_EQ(config["add_bos_token"], true);
  EXPECT_EQ(config["add_prefix_space"], false);
  EXPECT_EQ(config["clean_up_tokenization_spaces"], false);
  EXPECT_EQ(config["split_special_tokens"], true)
      << "else \"<s>\" in a text becomes a control token";
  EXPECT_EQ(Json::parse(files.at("special_tokens_map.json"))["eos_token"], "</s>");

  const Json json = Json::parse(files.at("tokenizer.json"));
  EXPECT_EQ(json["model"]["vocab"].size(), 600);
  EXPECT_EQ(json["model"]["byte_fallback"], true);
  EXPECT_TRUE(json["normalizer"].is_null());
  EXPECT_EQ(json["post_processor"]["single"][0]["SpecialToken"]["id"], "<s>");
  EXPECT_EQ(json["added_tokens"].size(), 3);
}

TEST(HfTokenizer, RefusesTokenizersItCannotExpress) {
  const auto tokenizer = Tokenizer::from_bytes(small_model() + kRemoveSpaces, "m");
  expect_error([&] { hf_tokenizer_files(tokenizer, 512); }, ExitCode::kBadData, "changes text");
  SentencePieceModel model = *small_tokenizer().sentencepiece();
  model.add_dummy_prefix = true;
  model.pieces.push_back({"<tool>", 0, SentencePieceModel::Type::kUserDefined});
  const auto tools = Tokenizer::from_bytes(sentencepiece_model_bytes(model), "m");
  expect_error([&] { hf_tokenizer_files(tools, 512); }, ExitCode::kBadData, "user-defined");
}

TEST(HfTokenizer, SaysWhereTextsDoNotBeginWithATokenAndWhatAChatLooksLike) {
  SentencePieceModel model = *small_tokenizer().sentencepiece();
  model.bos_id = -1;
  model.chat_template = "<|im_start|>";
  const auto tokenizer = Tokenizer::from_bytes(sentencepiece_model_bytes(model), "m");
  const auto files = hf_tokenizer_files(tokenizer, 512);
  EXPECT_TRUE(Json::parse(files.at("tokenizer.json"))["post_processor"].is_null());
  const Json config = Json::parse(files.at("tokenizer_config.json"));
  EXPECT_EQ(config["add_bos_token"], false);
  EXPECT_EQ(config["chat_template"], "<|im_start|>");
  EXPECT_EQ(config["split_special_tokens"], false) << "a chat is rendered to text first";
}

}  // namespace
}  // namespace kvsmith
