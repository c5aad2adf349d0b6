#include "data/tokenizer.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>

#include <sentencepiece_processor.h>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/text.h"
#include "data/utf8.h"
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

/// Objects handed out to one caller at a time.
template <class T>
class Pool {
 public:
  std::unique_ptr<T> take() {
    const std::scoped_lock lock(mutex_);
    if (free_.empty()) return std::make_unique<T>();
    auto taken = std::move(free_.back());
    free_.pop_back();
    return taken;
  }
  void give_back(std::unique_ptr<T> object) {
    const std::scoped_lock lock(mutex_);
    free_.push_back(std::move(object));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<T>> free_;
};

}  // namespace

struct Tokenizer::Impl {
  std::string bytes, sha256;
  SentencePieceModel model;
  std::vector<std::string> surfaces;  ///< by id
  std::optional<int> border;          ///< of words; none: the library gets whole texts
  std::vector<int32_t> space_symbol;  ///< what a literal U+2581 is encoded as; empty: as a space
  std::unique_ptr<sentencepiece::SentencePieceProcessor> at_begin;
  std::unique_ptr<sentencepiece::SentencePieceProcessor> inside;  ///< none: as at_begin
  mutable Pool<WordCache> caches;

  void library_encode(std::string_view text, Begin begin, std::vector<int32_t>& ids) const {
    std::vector<int> found;
    const auto& processor = begin == Begin::kInside && inside ? inside : at_begin;
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
      const std::string_view word = text.substr(0, word_length(text, *border));
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
    if (!border) return library_encode(text, begin, ids);
    if (begin == Begin::kText && model.add_dummy_prefix && !text.empty()) {
      // The prefix belongs to the first word; the library knows how.
      const size_t first = text[0] == '\n' ? 0 : word_length(text, *border);
      if (first == 0) return encode_plain(cat(" ", text), Begin::kInside, ids);
      library_encode(text.substr(0, first), begin, ids);
      text.remove_prefix(first);
    }
    auto cache = caches.take();
    encode_words(text, *cache, ids);
    caches.give_back(std::move(cache));
  }
};

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  constexpr uint64_t kMaxModelBytes = uint64_t{256} << 20;
  return from_bytes(read_file(path, kMaxModelBytes), path.string());
}

Tokenizer Tokenizer::from_bytes(std::string bytes, const std::string& where) {
  auto impl = std::make_shared<Impl>();
  impl->model = parse_sentencepiece_model(bytes, where);
  const auto load = [&](std::string_view serialised) {
    auto processor = std::make_unique<sentencepiece::SentencePieceProcessor>();
    const auto status = processor->LoadFromSerializedProto(serialised);
    if (!status.ok())
      throw Error(ExitCode::kBadData, {.what = cat("SentencePiece refuses it: ", status.ToString()),
                                       .where = where,
                                       .remedy = "not a SentencePiece model, or a damaged one"});
    return processor;
  };
  impl->at_begin = load(bytes);
  if (impl->model.add_dummy_prefix) impl->inside = load(without_dummy_prefix(bytes));
  for (const Piece& piece : impl->model.pieces)
    impl->surfaces.push_back(surface_of(piece, impl->model));
  impl->border = word_border(impl->model);
  if (impl->model.lossless())
    for (const char c : kSpaceSymbol)
      for (size_t id = 0; id < impl->surfaces.size(); ++id)
        if (impl->model.pieces[id].type == Type::kByte && impl->surfaces[id][0] == c)
          impl->space_symbol.push_back(static_cast<int32_t>(id));
  impl->sha256 = kvsmith::sha256(bytes);
  impl->bytes = std::move(bytes);
  return Tokenizer(impl);
}

std::vector<int32_t> Tokenizer::encode(std::string_view utf8, Begin begin) const {
  std::vector<int32_t> ids;
  ids.reserve(utf8.size() / 4 + 8);
  encode_to(ids, utf8, begin);
  return ids;
}

void Tokenizer::encode_to(std::vector<int32_t>& ids, std::string_view utf8, Begin begin) const {
  if (const size_t bad = find_invalid_utf8(utf8); bad < utf8.size())
    throw Error(ExitCode::kBadData, {.what = cat("invalid UTF-8 at byte ", bad),
                                     .where = "text to encode",
                                     .remedy = "convert it to UTF-8"});
  while (!impl_->space_symbol.empty()) {
    const size_t at = utf8.find(kSpaceSymbol);
    if (at == utf8.npos) break;
    impl_->encode_plain(utf8.substr(0, at), begin, ids);
    if (at == 0 && begin == Begin::kText && impl_->model.add_dummy_prefix)
      impl_->encode_plain(" ", Begin::kInside, ids);
    ids.insert(ids.end(), impl_->space_symbol.begin(), impl_->space_symbol.end());
    utf8.remove_prefix(at + kSpaceSymbol.size());
    begin = Begin::kInside;
  }
  impl_->encode_plain(utf8, begin, ids);
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size())
      throw Error(ExitCode::kBadData,
                  {.what = cat("token ", id, " in a vocabulary of ", vocab_size()),
                   .where = "decode",
                   .remedy = "use the tokenizer the tokens were made with"});
    text += impl_->surfaces[id];
  }
  if (impl_->model.add_dummy_prefix && text.starts_with(' ')) text.erase(0, 1);
  uint64_t replaced = 0;
  return find_invalid_utf8(text) == text.size() ? text : replace_invalid_utf8(text, replaced);
}

bool Tokenizer::is_lossless() const { return impl_->model.lossless(); }
int64_t Tokenizer::vocab_size() const { return std::ssize(impl_->model.pieces); }
const std::string& Tokenizer::piece(int32_t id) const { return impl_->model.pieces.at(id).text; }
const std::string& Tokenizer::surface(int32_t id) const { return impl_->surfaces.at(id); }
int32_t Tokenizer::unk_id() const { return impl_->model.unk_id; }
int32_t Tokenizer::bos_id() const { return impl_->model.bos_id; }
int32_t Tokenizer::eos_id() const { return impl_->model.eos_id; }
const SentencePieceModel& Tokenizer::model() const { return impl_->model; }
const std::string& Tokenizer::bytes() const { return impl_->bytes; }
const std::string& Tokenizer::sha256() const { return impl_->sha256; }

}  // namespace kvsmith
