#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/sentencepiece_model.h"

namespace kvsmith {

class TokenizerBackend;

/// A SentencePiece model, or a byte-level BPE tokenizer from a tokenizer.json; which of them, the
/// bytes tell. encode() and decode() are const and safe to call from several threads.
///
/// Files are checked before they are used: a damaged one is an Error (65) that names the piece or
/// the JSON path, not a crash, and a tokenizer.json with parts that are not supported an Error
/// (78). See parse_sentencepiece_model() and parse_tokenizer_json().
///
/// Where is_lossless(): decode(encode(text)) == text for any UTF-8 text. encode() gives the ids of
/// the SentencePiece library, with one exception: a literal U+2581, which the library cannot tell
/// from a space, is encoded by its three bytes and so survives; or those of Hugging Face
/// `tokenizers` with special tokens taken for text (`split_special_tokens`).
class Tokenizer {
 public:
  /// Whether a text is given from its beginning, where some models put a space before it, or goes
  /// on from an earlier part that ended at a border of words.
  enum class Begin { kText, kInside };

  /// For a tokenizer.json that does not say them itself, takes the names of its control tokens and
  /// its chat template from the tokenizer_config.json and chat_template.jinja beside it, if any;
  /// bytes() then hold them.
  static Tokenizer load(const std::filesystem::path& path);
  /// `where` names the source in errors ("corpus.h5: /tokenizer").
  static Tokenizer from_bytes(std::string bytes, const std::string& where);

  /// Token ids without begin- or end-of-text. What looks like a control token is text. Words are
  /// looked up in a cache first where pieces never span words. Throws 65 with the byte offset for
  /// text that is not UTF-8.
  std::vector<int32_t> encode(std::string_view utf8, Begin begin = Begin::kText) const;
  /// As encode(), but appends to `ids`.
  void encode_to(std::vector<int32_t>& ids,
                 std::string_view utf8,
                 Begin begin = Begin::kText) const;
  /// As encode(), but control tokens in the text become their ids: for prompts of the user's own,
  /// never for text from others.
  std::vector<int32_t> encode_with_specials(std::string_view utf8) const;
  /// Control tokens decode to nothing. Byte tokens that together are not UTF-8 become U+FFFD.
  /// Throws 65 for an id outside the vocabulary.
  std::string decode(std::span<const int32_t> ids) const;

  /// The largest position from 1 to `limit` < utf8.size() at which a text may be cut, the second
  /// part to be encoded with Begin::kInside, without any change to its ids; 0 when there is none.
  /// `utf8` may end within a code point.
  size_t last_border(std::string_view utf8, size_t limit) const;

  /// False for models that normalise text or have no tokens for some bytes.
  bool is_lossless() const;
  int64_t vocab_size() const;
  /// As in the file: with U+2581 for a space and "<0x0A>" for bytes, or "Ġthe".
  const std::string& piece(int32_t id) const;
  /// What the token adds to a text; one byte of a character for byte pieces.
  const std::string& surface(int32_t id) const;
  /// Whether the token is a control token, which stands for no text.
  bool is_special(int32_t id) const;
  /// The control token of this name, or -1.
  int32_t special_id(std::string_view name) const;
  /// Whether encode() puts a space before a text, which decode() takes away.
  bool adds_space() const;
  /// -1 where the model has none. bos_id() is the token that texts begin with: -1 for models that
  /// have one but do not put it there, such as SmolLM2.
  int32_t unk_id() const;
  int32_t bos_id() const;
  int32_t eos_id() const;
  int32_t pad_id() const;
  /// The name of the begin-of-text token even where texts do not begin with it; empty: none.
  const std::string& bos_piece() const;
  /// Jinja, as in tokenizer_config.json; empty: none.
  const std::string& chat_template() const;

  /// What a SentencePiece model file says; null for the other kind.
  const SentencePieceModel* sentencepiece() const;
  /// The file itself, and its identity.
  const std::string& bytes() const;
  const std::string& sha256() const;

 private:
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace kvsmith
