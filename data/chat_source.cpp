#include "data/chat_source.h"

namespace kvsmith {

bool ChatSource::next(std::vector<ChatMessage>& chat) {
  std::string_view line;
  if (!lines_.next(line)) return false;
  if (lines_.is_first()) style_ = chat_style_of(line, lines_.where());
  chat = parse_chat(line, style_, lines_.where());
  return true;
}

}  // namespace kvsmith
