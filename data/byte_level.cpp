#include "data/byte_level.h"

#include <array>

#include "data/unicode.h"

namespace kvsmith {
namespace {

constexpr bool stands_for_itself(int byte) {
  return (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
}

/// Code point by byte.
constexpr auto kSymbols = [] {
  std::array<char32_t, 256> symbols{};
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte)
    symbols[byte] = stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++;
  return symbols;
}();

/// Byte by code point, -1 for what is not in the alphabet.
constexpr auto kBytes = [] {
  std::array<int, 0x100 + 68> bytes{};
  bytes.fill(-1);
  for (int byte = 0; byte < 256; ++byte) bytes[kSymbols[byte]] = byte;
  return bytes;
}();

}  // namespace

std::string byte_level_symbol(unsigned char byte) { return to_utf8(kSymbols[byte]); }

std::optional<std::string> from_byte_level(std::string_view token) {
  std::string bytes;
  for (size_t at = 0; at < token.size();) {
    const CodePoint point = code_point_at(token, at);
    if (point.value >= kBytes.size() || kBytes[point.value] < 0) return std::nullopt;
    bytes += static_cast<char>(kBytes[point.value]);
    at += point.bytes;
  }
  return bytes;
}

}  // namespace kvsmith
