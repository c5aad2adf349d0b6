#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace kvsmith {

/// What pre-tokenizers tell apart: \p{L}, \p{N}, \s, the rest.
enum class CharClass : uint8_t { kOther, kLetter, kNumber, kWhite };

/// The class in Unicode 16, which Hugging Face `tokenizers` 0.23 goes by, whatever version the
/// installed ICU knows: a corpus must not depend on the machine it was made on.
CharClass char_class(char32_t c);

/// Whether the code point is a letter, digit or other numeral to Rust's `char::is_numeric` in
/// Unicode 17, which the `Digits` pre-tokenizer of `tokenizers` 0.23 asks.
bool is_numeric(char32_t c);

struct CodePoint {
  char32_t value;
  size_t bytes;
};

/// The code point that starts at `at` < text.size(), in valid UTF-8.
inline CodePoint code_point_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const auto low = [&](size_t i) { return static_cast<char32_t>(byte(i) & 0x3F); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  if (lead < 0xE0) return {(lead & 0x1FU) << 6 | low(1), 2};
  if (lead < 0xF0) return {(lead & 0x0FU) << 12 | low(1) << 6 | low(2), 3};
  return {(lead & 0x07U) << 18 | low(1) << 12 | low(2) << 6 | low(3), 4};
}

/// The code point in UTF-8.
std::string to_utf8(char32_t c);

/// Normalisation form C of valid UTF-8, as of Unicode 9: that is what `tokenizers` 0.23 has here.
/// Later characters stay where they are.
std::string to_nfc(std::string_view text);

}  // namespace kvsmith
