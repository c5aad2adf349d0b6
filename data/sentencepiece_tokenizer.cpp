#include <algorithm>
#include <array>
#include <optional>

#include <sentencepiece_processor.h>

#include "core/error.h"
#include "core/text.h"
#include "data/added_tokens.h"
#include "data/pool.h"
#include "data/tokenizer_backend.h"
#include "data/word_border.h"
#include "data/word_cache.h"

namespace kvsmith {
namespace {

using Piece = SentencePieceModel::Piece;
using Type = SentencePieceModel::Type;

constexpr std::string_view kSpaceSymbol = "\xE2\x96\x81";  // U+2581, a space inside pieces

std::string with_spaces(std::string_view piece) {
  std::string text;
  while (!piece.empty()) {
    const size_t at = std::min(piece.find(kSpaceSymbol), piece.size());
    text += piece.substr(0, at);
    piece.remove_prefix(at);
    if (piece.empty()) break;
    text += ' ';
    piece.remove_prefix(kSpaceSymbol.size());
  }
  return text;
}

/// What a token contributes to a decoded text.
std::string surface_of(const Piece& piece, const SentencePieceModel& model) {
  switch (piece.type) {
    case Type::kControl:
      return "";
    case Type::kUnknown:
      return model.unk_surface;
    case Type::kByte:
      return {static_cast<char>(byte_of_piece(piece.text))};
    default:
      return with_spaces(piece.text);
  }
}

/// What a byte says about borders of words. Letters ^ marks is told apart from all other pairs.
enum Kind : uint8_t { kOther = 0, kLetter = 1, kMark = 2, kWhite = 4 };
constexpr int kLetterAndMark = kLetter ^ kMark, kNever = 0xFF;

constexpr auto kKinds = [] {
  std::array<Kind, 256> kinds{};  // kOther: no ASCII, a tab, a carriage return
  for (int c = '!'; c < 0x7F; ++c) kinds[c] = kMark;
  for (int c = 'a'; c <= 'z'; ++c) kinds[c] = kinds[c - 'a' + 'A'] = kLetter;
  kinds[' '] = kinds['\n'] = kWhite;
  return kinds;
}();

Kind kind_of(char c) { return kKinds[static_cast<unsigned char>(c)]; }

/// A newline; or spaces and what follows up to the next space, newline, or `border` of kinds.
size_t word_length(std::string_view text, int border) {
  if (text[0] == '\n') return 1;
  size_t at = std::min(text.find_first_not_of(' '), text.size());
  if (at == text.size() || text[at] == '\n') return at;
  for (int last = kind_of(text[at++]); at < text.size(); ++at) {
    const int kind = kind_of(text[at]);
    if (kind == kWhite || (kind ^ last) == border) break;
    last = kind;
  }
  return at;
}

/// The border at which texts may be split into words for encoding, besides before spaces and
/// around newlines; nothing where they may not be split at all.
///
/// Merging is local to words when each piece is a part of one. Unigram models are left out: their
/// sums of scores over a whole text may round differently from those over a word.
std::optional<int> word_border(const SentencePieceModel& model) {
  if (!model.lossless() || model.algorithm != SentencePieceModel::Algorithm::kBpe) return {};
  const auto all_within_words = [&](int border) {
    return std::ranges::all_of(model.pieces, [&](const Piece& piece) {
      if (piece.type == Type::kUnknown || piece.type == Type::kControl || piece.type == Type::kByte)
        return true;
      const std::string text = with_spaces(piece.text);
      return word_length(text, border) == text.size();
    });
  };
  for (const int border : {kLetterAndMark, kNever})
    if (all_within_words(border)) return border;
  return {};
}

using Processor = sentencepiece::SentencePieceProcessor;

std::unique_ptr<Processor> load(std::string_view serialised, const std::string& where) {
  auto processor = std::make_unique<Processor>();
  const auto status = processor->LoadFromSerializedProto(serialised);
  if (!status.ok())
    throw Error(ExitCode::kBadData, {.what = cat("SentencePiece refuses it: ", status.ToString()),
                                     .where = where,
                                     .remedy = "not a SentencePiece model, or a damaged one"});
  return processor;
}

TokenizerBackend::Facts facts_of(const SentencePieceModel& model) {
  TokenizerBackend::Facts facts;
  for (const Piece& piece : model.pieces) {
    facts.pieces.push_back(piece.text);
    facts.surfaces.push_back(surface_of(piece, model));
    facts.is_special.push_back(piece.type == Type::kControl);
  }
  facts.unk_id = model.unk_id;
  facts.bos_id = model.bos_id;
  facts.eos_id = model.eos_id;
  facts.is_lossless = model.lossless();
  facts.adds_space = model.add_dummy_prefix;
  if (model.bos_id >= 0) facts.bos_piece = model.pieces[model.bos_id].text;
  facts.chat_template = model.chat_template;
  return facts;
}

class SentencePieceTokenizer : public TokenizerBackend {
 public:
  SentencePieceTokenizer(const std::string& bytes,
                         SentencePieceModel model,
                         const std::string& where)
      : TokenizerBackend(facts_of(model)),
        model_(std::move(model)),
        border_(word_border(model_)),
        at_begin_(load(bytes, where)) {
    if (model_.add_dummy_prefix) inside_ = load(without_dummy_prefix(bytes), where);
    for (const Piece& piece : model_.pieces)
      is_within_words_ = is_within_words_ && is_within_words(with_spaces(piece.text));
    if (model_.lossless())
      for (const char c : kSpaceSymbol)
        for (size_t id = 0; id < model_.pieces.size(); ++id)
          if (model_.pieces[id].type == Type::kByte && facts().surfaces[id][0] == c)
            space_symbol_.push_back(static_cast<int32_t>(id));
    for (size_t id = 0; id < model_.pieces.size(); ++id)
      if (facts().is_special[id]) specials_.add(model_.pieces[id].text, static_cast<int32_t>(id));
  }

  void encode(std::string_view text, Begin begin, std::vector<int32_t>& ids) const override {
    while (!space_symbol_.empty()) {
      const size_t at = text.find(kSpaceSymbol);
      if (at == text.npos) break;
      encode_plain(text.substr(0, at), begin, ids);
      if (at == 0 && begin == Begin::kText && model_.add_dummy_prefix)
        encode_plain(" ", Begin::kInside, ids);
      ids.insert(ids.end(), space_symbol_.begin(), space_symbol_.end());
      text.remove_prefix(at + kSpaceSymbol.size());
      begin = Begin::kInside;
    }
    encode_plain(text, begin, ids);
  }

  void encode_with_specials(std::string_view text,
                            Begin begin,
                            std::vector<int32_t>& ids) const override {
    while (!text.empty()) {
      const auto match = specials_.find(text);
      if (match.at > 0) encode(text.substr(0, match.at), begin, ids);
      if (match.id >= 0) ids.push_back(match.id);
      text.remove_prefix(match.at + match.bytes);
      begin = Begin::kInside;
    }
  }

  size_t last_border(std::string_view text, size_t limit) const override {
    if (!is_within_words_) return 0;
    if (!model_.remove_extra_whitespaces) return last_word_border(text, limit);
    return model_.add_dummy_prefix ? last_space_border(text, limit) : 0;
  }

  const SentencePieceModel* sentencepiece() const override { return &model_; }

 private:
  void library_encode(std::string_view text, Begin begin, std::vector<int32_t>& ids) const {
    std::vector<int> found;
    // a space that is stripped from the beginning comes back as the one before a text
    const bool loses_space = model_.remove_extra_whitespaces && text.starts_with(' ');
    const auto& processor =
        begin == Begin::kInside && inside_ && !loses_space ? inside_ : at_begin_;
    const auto status = processor->Encode(text, &found);
    if (!status.ok())
      throw Error(ExitCode::kInternal,
                  {.what = cat("SentencePiece could not encode: ", status.ToString()),
                   .where = "tokenizer",
                   .remedy = ""});
    ids.insert(ids.end(), found.begin(), found.end());
  }

  void encode_words(std::string_view text, WordCache& cache, std::vector<int32_t>& ids) const {
    while (!text.empty()) {
      const std::string_view word = text.substr(0, word_length(text, *border_));
      text.remove_prefix(word.size());
      if (word.size() > WordCache::kMaxWordBytes) {
        library_encode(word, Begin::kInside, ids);
        continue;
      }
      const WordCache::Key key(word);
      if (const auto known = cache.find(key); !known.empty()) {
        ids.insert(ids.end(), known.begin(), known.end());
        continue;
      }
      const size_t before = ids.size();
      library_encode(word, Begin::kInside, ids);
      cache.put(key, std::span(ids).subspan(before));
    }
  }

  /// Text without a U+2581 of its own.
  void encode_plain(std::string_view text, Begin begin, std::vector<int32_t>& ids) const {
    if (!border_) return library_encode(text, begin, ids);
    if (begin == Begin::kText && model_.add_dummy_prefix && !text.empty()) {
      // The prefix belongs to the first word; the library knows how.
      const size_t first = text[0] == '\n' ? 0 : word_length(text, *border_);
      if (first == 0) return encode_plain(cat(" ", text), Begin::kInside, ids);
      library_encode(text.substr(0, first), begin, ids);
      text.remove_prefix(first);
    }
    auto cache = caches_.take();
    encode_words(text, *cache, ids);
    caches_.give_back(std::move(cache));
  }

  SentencePieceModel model_;
  std::optional<int> border_;          ///< of words; none: the library gets whole texts
  std::vector<int32_t> space_symbol_;  ///< what a literal U+2581 is encoded as; empty: as a space
  bool is_within_words_ = true;        ///< every piece
  AddedTokens specials_;
  std::unique_ptr<Processor> at_begin_;
  std::unique_ptr<Processor> inside_;  ///< none: as at_begin_
  mutable Pool<WordCache> caches_;
};

}  // namespace

std::unique_ptr<TokenizerBackend> make_sentencepiece_tokenizer(const std::string& bytes,
                                                               const std::string& where) {
  return std::make_unique<SentencePieceTokenizer>(bytes, parse_sentencepiece_model(bytes, where),
                                                  where);
}

}  // namespace kvsmith
