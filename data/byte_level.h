#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace kvsmith {

/// The alphabet in which byte-level vocabularies are written (GPT-2, Radford et al. 2019):
/// printable Latin-1 bytes stand for themselves, the 68 others are U+0100 onwards, so "Ġ" is a
/// space.
std::string byte_level_symbol(unsigned char byte);

/// The bytes of a token written in that alphabet; none for one with other characters.
std::optional<std::string> from_byte_level(std::string_view token);

}  // namespace kvsmith
