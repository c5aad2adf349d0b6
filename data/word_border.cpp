#include "data/word_border.h"

namespace kvsmith {
namespace {

bool is_white(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

}  // namespace

size_t last_space_border(std::string_view text, size_t limit) {
  for (size_t at = limit; at > 0 && (at = text.rfind(' ', at)) != text.npos && at > 0; --at)
    if (!is_white(text[at - 1])) return at;
  return 0;
}

size_t last_word_border(std::string_view text, size_t limit) {
  for (size_t at = limit; at > 0 && (at = text.rfind('\n', at - 1)) != text.npos;)
    if (!is_white(text[at + 1])) return at + 1;
  return last_space_border(text, limit);
}

bool is_within_words(std::string_view piece) {
  for (size_t at = 1; at < piece.size(); ++at) {
    if (piece[at] == ' ' && !is_white(piece[at - 1])) return false;
    if (piece[at - 1] == '\n' && !is_white(piece[at])) return false;
  }
  return true;
}

}  // namespace kvsmith
