#pragma once

#include <cstdio>
#include <string>

namespace kvsmith {

/// Pieces of SentencePiece model files, written by hand.

/// Field `number` of a protobuf message, with the given content.
inline std::string message(int number, const std::string& content) {
  std::string out(1, static_cast<char>(number << 3 | 2));
  size_t size = content.size();
  for (; size > 0x7F; size >>= 7) out += static_cast<char>((size & 0x7F) | 0x80);
  out += static_cast<char>(size);
  return out + content;
}

/// Types: 1 normal, 2 unknown, 3 control, 6 byte.
inline std::string piece(const std::string& text, float score = 0, int type = 1) {
  std::string content = message(1, text);
  content += '\x15';
  content.append(reinterpret_cast<const char*>(&score), sizeof score);
  content += '\x18';
  content += static_cast<char>(type);
  return message(1, content);
}

inline std::string byte_pieces(int count) {
  std::string out;
  for (int i = 0; i < count; ++i) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", static_cast<unsigned>(i) & 0xFF);
    out += piece(text, 0, 6);
  }
  return out;
}

inline const std::string kUnk = piece("<unk>", 0, 2);
inline const std::string kControls = piece("<s>", 0, 3) + piece("</s>", 0, 3);
/// trainer_spec {byte_fallback: true}, {model_type: BPE}.
inline const std::string kFallback = message(2, std::string("\x98\x02\x01", 3));
inline const std::string kBpe = message(2, std::string("\x18\x02", 2));
/// normalizer_spec {add_dummy_prefix: ..., remove_extra_whitespaces: ...}. A field given again at
/// the end of a model file replaces the earlier one.
inline const std::string kDummyPrefix = message(3, std::string("\x18\x01", 2));
inline const std::string kNoDummyPrefix = message(3, std::string("\x18\x00", 2));
inline const std::string kRemoveSpaces = message(3, std::string("\x20\x01", 2));
inline const std::string kKeepSpaces = message(3, std::string("\x20\x00", 2));

}  // namespace kvsmith
