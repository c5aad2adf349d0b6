#pragma once

#include <cstddef>
#include <string_view>

namespace kvsmith {

/// The largest position from 1 to `limit` < text.size() that is before a space and does not follow
/// white space; 0 when there is none.
size_t last_space_border(std::string_view text, size_t limit);
/// The same, but first of all one that is after a newline and before a word.
size_t last_word_border(std::string_view text, size_t limit);
/// Whether no such border is within `piece`.
bool is_within_words(std::string_view piece);

}  // namespace kvsmith
