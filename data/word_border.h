#pragma once

#include <cstddef>
#include <string_view>

namespace kvsmith {

/// The largest position from 1 to `limit` < text.size() that is after a newline and before a word,
/// else before a space that is followed by a word and does not follow white space; 0 when there is
/// none. Pieces of SentencePiece vocabularies do not span it.
size_t last_word_border(std::string_view text, size_t limit);

}  // namespace kvsmith
