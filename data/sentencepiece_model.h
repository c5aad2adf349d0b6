#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kvsmith {

/// What a SentencePiece model file says, read without the library.
struct SentencePieceModel {
  enum class Type : uint8_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
  enum class Algorithm : uint8_t { kUnigram = 1, kBpe, kWord, kChar };

  struct Piece {
    std::string text;  ///< as stored: a space is U+2581, byte pieces are "<0x0A>"
    float score = 0;
    Type type = Type::kNormal;
  };

  std::vector<Piece> pieces;  ///< by token id
  Algorithm algorithm = Algorithm::kUnigram;
  bool byte_fallback = false;
  bool treat_whitespace_as_suffix = false;
  int32_t unk_id = -1, bos_id = -1, eos_id = -1;  ///< -1: none
  std::string unk_surface = " \xE2\x81\x87 ";     ///< what an unknown token decodes to

  std::string normalizer;  ///< "identity", "nmt_nfkc", ...
  uint64_t charsmap_bytes = 0;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool denormalizes = false;  ///< decoding rewrites text
  std::string chat_template;  ///< Jinja, in a field of ours; empty: none

  /// Text survives normalisation and every character has an encoding.
  bool lossless() const;
};

/// Walks the protobuf wire format of a model file and checks what the library does not: at most
/// 2^20 pieces of 1 to 4,096 bytes in UTF-8, no two alike, finite scores, known types, exactly one
/// unknown piece, byte fallback complete or absent. Throws Error (65) naming the first bad piece;
/// `where` names the file.
SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& where);

/// Field of a model file that has the chat template, in the range that is open to all.
inline constexpr uint32_t kChatTemplateField = 200;

/// The model file without its self-test samples and with the space before a text turned off, so
/// that parts of a text encode as they would inside it. `bytes` must have passed the parser.
std::string without_dummy_prefix(std::string_view bytes);

/// The model file without the number of threads it was trained with, on which its pieces do not
/// depend. `bytes` must have passed the parser.
std::string without_thread_count(std::string_view bytes);

/// The byte a byte piece "<0x0A>" stands for, or -1.
int byte_of_piece(std::string_view text);

}  // namespace kvsmith
