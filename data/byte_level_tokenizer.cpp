#include <algorithm>
#include <array>

#include "data/added_tokens.h"
#include "data/byte_bpe.h"
#include "data/byte_level.h"
#include "data/pool.h"
#include "data/pre_tokenizer.h"
#include "data/tokenizer_backend.h"
#include "data/tokenizer_json.h"
#include "data/unicode.h"
#include "data/word_cache.h"

namespace kvsmith {
namespace {

/// Bytes that no UTF-8 text has.
bool is_unused(int byte) { return byte == 0xC0 || byte == 0xC1 || byte >= 0xF5; }

/// The token of each byte; `missing` for those without one.
std::array<int32_t, 256> ids_of_bytes(const TokenizerBackend::Facts& facts, int32_t missing) {
  std::array<int32_t, 256> ids;
  ids.fill(missing);
  for (int32_t id = 0; id < std::ssize(facts.pieces); ++id) {
    const auto bytes = from_byte_level(facts.pieces[id]);
    if (bytes && bytes->size() == 1 && !facts.is_special[id])
      ids[static_cast<unsigned char>((*bytes)[0])] = id;
  }
  return ids;
}

ByteBpe::Words whole_words(const TokenizerJson& json, const TokenizerBackend::Facts& facts) {
  ByteBpe::Words words;
  if (!json.takes_whole_words) return words;
  for (int32_t id = 0; id < std::ssize(json.pieces); ++id)
    if (!facts.is_special[id]) words.emplace(facts.surfaces[id], id);
  return words;
}

TokenizerBackend::Facts facts_of(const TokenizerJson& json) {
  TokenizerBackend::Facts facts;
  facts.pieces = json.pieces;
  for (const auto& piece : json.pieces)
    facts.surfaces.push_back(from_byte_level(piece).value_or(piece));
  facts.is_special.resize(json.pieces.size());
  for (const auto& token : json.added) {
    facts.surfaces[token.id] = token.is_special ? "" : token.content;
    facts.is_special[token.id] = token.is_special;
  }
  facts.unk_id = json.unk_id;
  facts.bos_id = json.adds_bos ? json.bos_id : -1;
  facts.eos_id = json.eos_id;
  facts.pad_id = json.pad_id;
  if (json.bos_id >= 0) facts.bos_piece = json.pieces[json.bos_id];
  facts.chat_template = json.chat_template;
  const auto bytes = ids_of_bytes(facts, -1);
  facts.is_lossless = !json.normalizes;
  for (int byte = 0; byte < 256; ++byte)
    if (bytes[byte] < 0 && !is_unused(byte)) facts.is_lossless = false;
  return facts;
}

class ByteLevelTokenizer : public TokenizerBackend {
 public:
  explicit ByteLevelTokenizer(const TokenizerJson& json)
      : TokenizerBackend(facts_of(json)),
        bpe_(ids_of_bytes(facts(), json.unk_id), json.merges, whole_words(json, facts())),
        pre_tokenizer_(json.pre_tokenizer),
        normalizes_(json.normalizes) {
    for (const auto& token : json.added) {
      const bool after = token.is_normalized && normalizes_;
      const std::string content = after ? to_nfc(token.content) : token.content;
      if (!token.is_special) (after ? in_text_.after : in_text_.before).add(content, token.id);
      (after ? all_.after : all_.before).add(content, token.id);
      if (after && content.find_first_of(" \n") != content.npos) borders_are_uncertain_ = true;
    }
  }

  void encode(std::string_view text, Begin /*begin*/, std::vector<int32_t>& ids) const override {
    encode_parts(text, in_text_, ids);
  }

  void encode_with_specials(std::string_view text,
                            Begin /*begin*/,
                            std::vector<int32_t>& ids) const override {
    encode_parts(text, all_, ids);
  }

  size_t last_border(std::string_view text, size_t limit) const override {
    // What a token spans in the normalised text cannot be told from this one.
    if (borders_are_uncertain_) return 0;
    while ((limit = kvsmith::last_border(pre_tokenizer_, text, limit)) > 0 &&
           in_text_.before.any_across(text, limit))
      --limit;
    return limit;
  }

 private:
  /// Tokens to find in a text before and after normalisation.
  struct Matchers {
    AddedTokens before, after;
  };
  struct Workspace {
    WordCache cache;
    ByteBpe::Workspace bpe;
  };

  /// Hands the parts of a text between tokens to `encode_part`.
  template <class EncodePart>
  static void part_at_tokens(std::string_view text,
                             const AddedTokens& tokens,
                             std::vector<int32_t>& ids,
                             const EncodePart& encode_part) {
    while (!text.empty()) {
      const auto match = tokens.find(text);
      if (match.at > 0) encode_part(text.substr(0, match.at));
      if (match.id >= 0) ids.push_back(match.id);
      text.remove_prefix(match.at + match.bytes);
    }
  }

  void encode_parts(std::string_view text,
                    const Matchers& tokens,
                    std::vector<int32_t>& ids) const {
    auto work = pool_.take();
    const auto encode_plain = [&](std::string_view part) { encode_words(part, *work, ids); };
    part_at_tokens(text, tokens.before, ids, [&](std::string_view part) {
      if (!normalizes_) return encode_plain(part);
      part_at_tokens(to_nfc(part), tokens.after, ids, encode_plain);
    });
    pool_.give_back(std::move(work));
  }

  void encode_words(std::string_view text, Workspace& work, std::vector<int32_t>& ids) const {
    while (!text.empty()) {
      const std::string_view word = text.substr(0, first_pre_token(pre_tokenizer_, text));
      text.remove_prefix(word.size());
      if (word.size() > WordCache::kMaxWordBytes) {
        bpe_.encode(word, work.bpe, ids);
        continue;
      }
      const WordCache::Key key(word);
      if (const auto known = work.cache.find(key); !known.empty()) {
        ids.insert(ids.end(), known.begin(), known.end());
        continue;
      }
      const size_t before = ids.size();
      bpe_.encode(word, work.bpe, ids);
      // No ids at all would look like a word that is not there.
      if (ids.size() > before) work.cache.put(key, std::span(ids).subspan(before));
    }
  }

  ByteBpe bpe_;
  PreTokenizer pre_tokenizer_;
  bool normalizes_;
  bool borders_are_uncertain_ = false;
  Matchers in_text_, all_;
  mutable Pool<Workspace> pool_;
};

}  // namespace

std::unique_ptr<TokenizerBackend> make_byte_level_tokenizer(const std::string& bytes,
                                                            const std::string& where) {
  return std::make_unique<ByteLevelTokenizer>(parse_tokenizer_json(bytes, where));
}

}  // namespace kvsmith
