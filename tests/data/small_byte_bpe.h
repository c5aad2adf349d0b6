#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "data/byte_level.h"
#include "data/pre_tokenizer.h"
#include "data/tokenizer.h"
#include "data/tokenizer_json_writer.h"
#include "tests/data/small_tokenizer.h"

namespace kvsmith {

/// The pieces of a text, each as a list of byte-level symbols.
inline std::vector<std::vector<std::string>> symbols_of_words(PreTokenizer kind,
                                                              std::string_view text) {
  std::vector<std::vector<std::string>> words;
  while (!text.empty()) {
    const size_t bytes = first_pre_token(kind, text);
    auto& word = words.emplace_back();
    for (const char c : text.substr(0, bytes))
      word.push_back(byte_level_symbol(static_cast<unsigned char>(c)));
    text.remove_prefix(bytes);
  }
  return words;
}

/// A vocabulary of 3 control tokens, 1 user-defined one, all bytes and `merges` merges trained on
/// sample_text(), for the pre-tokenizer `pre`.
inline TokenizerParts small_parts(const std::string& pre, int merges = 150) {
  TokenizerParts parts;
  parts.tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>"};
  parts.token_types = {3, 3, 3, 4};
  parts.pre = pre;
  parts.eos_id = 0;
  for (int byte = 0; byte < 256; ++byte)
    parts.tokens.push_back(byte_level_symbol(static_cast<unsigned char>(byte)));
  auto words = symbols_of_words(*pre_tokenizer_named(pre), sample_text().substr(0, 20000));
  for (int i = 0; i < merges; ++i) {
    std::map<std::pair<std::string, std::string>, int> counts;
    for (const auto& word : words)
      for (size_t at = 0; at + 1 < word.size(); ++at) ++counts[{word[at], word[at + 1]}];
    const auto best =
        std::ranges::max_element(counts, {}, [](const auto& entry) { return entry.second; })->first;
    const std::string whole = best.first + best.second;
    parts.merges.push_back(best.first + " " + best.second);
    if (std::ranges::find(parts.tokens, whole) == parts.tokens.end()) parts.tokens.push_back(whole);
    for (auto& word : words)
      for (size_t at = 0; at + 1 < word.size(); ++at)
        if (word[at] == best.first && word[at + 1] == best.second) {
          word[at] = whole;
          word.erase(word.begin() + static_cast<ptrdiff_t>(at) + 1);
        }
  }
  parts.token_types.resize(parts.tokens.size(), TokenizerParts::kNormal);
  return parts;
}

/// The tokenizer.json of small_parts(), made once a process for each `pre`.
inline const std::string& small_tokenizer_json(const std::string& pre) {
  static std::map<std::string, std::string> made;
  auto& json = made[pre];
  if (json.empty()) json = make_tokenizer_json(small_parts(pre), pre);
  return json;
}

inline Tokenizer small_byte_bpe(const std::string& pre) {
  return Tokenizer::from_bytes(small_tokenizer_json(pre), pre);
}

/// Besides nasty_texts(): white space of all kinds, contractions, digits of other scripts, and what
/// looks like added tokens.
inline std::vector<std::string> nasty_byte_bpe_texts(int random_ones) {
  const std::vector<std::string> parts = {" ",          "  ",      "\n",
                                          "\n\n",       "\r\n",    "\t",
                                          "\u00A0",     "\u3000",  "\v",
                                          "\u0085",     "\u2028",  "'s",
                                          "'S",         "'\u017F", "'ll",
                                          "'",          "a",       "the",
                                          " the",       "Она",     "日本",
                                          "é",          "e\u0301", "\u0301",
                                          "1",          "234",     "٣",
                                          "²",          "Ⅷ",       "𝟙",
                                          "\U00011DE0", "...",     "!\n",
                                          "-",          "😀",      "👩‍👩‍👧",
                                          "\u200B",     "\x01",    "<|im_start|>",
                                          "<tool_call>"};
  std::vector<std::string> texts = nasty_texts(random_ones / 2);
  std::mt19937 random(11);
  for (int i = 0; i < random_ones; ++i) {
    std::string text;
    const size_t kinds = 1 + random() % 12, first = random();
    for (size_t n = random() % 30; n > 0; --n)
      text += parts[(first + (random() % kinds) * 7) % parts.size()];
    texts.push_back(text);
  }
  texts.push_back(std::string(3000, ' ') + "x");
  texts.push_back(std::string(500, '\n') + " " + std::string(500, 'a'));
  return texts;
}

}  // namespace kvsmith
