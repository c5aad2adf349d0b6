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

/// A SentencePiece model. encode() and decode() are const and safe to call from several threads.
///
/// The model file is checked by a walk over its wire format before the library sees it (piece count
/// and length, types, scores, byte fallback complete): a damaged file is an Error (65) that names
/// the piece, not a crash.
///
/// Where is_lossless(): decode(encode(text)) == text for any UTF-8 text, and encode() gives the ids
/// of the library with one exception: a literal U+2581, which the library cannot tell from a
/// space, is encoded by its three bytes and so survives.
class Tokenizer {
 public:
  /// Whether a text is given from its beginning, where some models put a space before it, or goes
  /// on from an earlier part that ended at a border of words.
  enum class Begin { kText, kInside };

  static Tokenizer load(const std::filesystem::path& path);
  /// `where` names the source in errors ("corpus.h5: /tokenizer").
  static Tokenizer from_bytes(std::string model, const std::string& where);

  /// Token ids without begin- or end-of-text. Words are looked up in a cache first where pieces
  /// never span words. Throws 65 with the byte offset for text that is not UTF-8.
  std::vector<int32_t> encode(std::string_view utf8, Begin begin = Begin::kText) const;
  /// As encode(), but appends to `ids`.
  void encode_to(std::vector<int32_t>& ids,
                 std::string_view utf8,
                 Begin begin = Begin::kText) const;
  /// Control tokens decode to nothing. Byte tokens that together are not UTF-8 become U+FFFD.
  /// Throws 65 for an id outside the vocabulary.
  std::string decode(std::span<const int32_t> ids) const;

  /// False for models that normalise text or have no byte fallback.
  bool is_lossless() const;
  int64_t vocab_size() const;
  /// As in the model file, with U+2581 for a space and "<0x0A>" for bytes.
  const std::string& piece(int32_t id) const;
  /// What the token adds to a text; one byte of a character for byte pieces.
  const std::string& surface(int32_t id) const;
  /// -1 where the model has none.
  int32_t unk_id() const;
  int32_t bos_id() const;
  int32_t eos_id() const;

  /// What the model file says.
  const SentencePieceModel& model() const;
  /// The model file itself, and its identity.
  const std::string& bytes() const;
  const std::string& sha256() const;

 private:
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace kvsmith
