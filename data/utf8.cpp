#include "data/utf8.h"

#include <algorithm>
#include <cstring>

namespace kvsmith {
namespace {

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

struct Sequence {
  size_t bytes;  ///< of the code point, or of the ill-formed part
  bool valid;
};

/// Looks at the sequence that starts at `at` (Unicode 15, table 3-7).
Sequence sequence_at(std::string_view text, size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  if (lead < 0x80) return {1, true};
  if (lead < 0xC2 || lead > 0xF4) return {1, false};
  const size_t wanted = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  unsigned char low = 0x80, high = 0xBF;  // of the second byte
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < wanted; ++i) {
    if (at + i == text.size()) return {i, false};
    const auto byte = static_cast<unsigned char>(text[at + i]);
    if (byte < low || byte > high) return {i, false};
    low = 0x80, high = 0xBF;
  }
  return {wanted, true};
}

/// The first position at or after `at` that may hold a byte above 0x7F.
size_t skip_ascii(std::string_view text, size_t at) {
  constexpr uint64_t kHighBits = 0x8080808080808080;
  while (at + 32 <= text.size()) {
    uint64_t words[4];
    std::memcpy(words, text.data() + at, sizeof words);
    if ((words[0] | words[1] | words[2] | words[3]) & kHighBits) break;
    at += 32;
  }
  while (at < text.size() && !(text[at] & 0x80)) ++at;
  return at;
}

}  // namespace

size_t find_invalid_utf8(std::string_view text) {
  size_t at = 0;
  while ((at = skip_ascii(text, at)) < text.size()) {
    // Scripts other than Latin come in runs: stay here until the next ASCII byte.
    while (at < text.size() && (text[at] & 0x80)) {
      const Sequence found = sequence_at(text, at);
      if (!found.valid) return at;
      at += found.bytes;
    }
  }
  return text.size();
}

std::string replace_invalid_utf8(std::string_view text, uint64_t& replaced) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t good = find_invalid_utf8(text);
    out += text.substr(0, good);
    text.remove_prefix(good);
    if (text.empty()) break;
    text.remove_prefix(sequence_at(text, 0).bytes);
    out += "\xEF\xBF\xBD";
    ++replaced;
  }
  return out;
}

size_t utf8_border(std::string_view text, size_t at) {
  if (at >= text.size()) return text.size();
  size_t border = at;
  while (border > 0 && at - border < 3 && is_continuation(text[border])) --border;
  return is_continuation(text[border]) ? at : border;
}

}  // namespace kvsmith
