#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace kvsmith {

/// Byte offset of the first ill-formed UTF-8 sequence (overlong, surrogate, above U+10FFFF, stray
/// or missing continuation byte, cut at the end), or text.size() when there is none.
size_t find_invalid_utf8(std::string_view text);

/// The text with every ill-formed sequence (Unicode's maximal subpart) replaced by U+FFFD; adds
/// how many there were to `replaced`.
std::string replace_invalid_utf8(std::string_view text, uint64_t& replaced);

/// The largest position <= `at` that is not inside a code point. Text that is not UTF-8 moves the
/// position by at most 3 bytes.
size_t utf8_border(std::string_view text, size_t at);

}  // namespace kvsmith
