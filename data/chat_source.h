#pragma once

#include <string>
#include <vector>

#include "data/chat_json.h"
#include "data/json_lines.h"

namespace kvsmith {

/// Chats of .jsonl files, one a line; all lines of a file are in the ChatStyle of its first.
///
/// Errors: those of JsonLines and parse_chat(), with file and line.
class ChatSource {
 public:
  explicit ChatSource(const std::vector<std::string>& inputs) : lines_(inputs, "chats") {}

  /// False at the end of the last input.
  bool next(std::vector<ChatMessage>& chat);
  /// The files read to their end so far.
  const std::vector<CorpusSource>& sources() const { return lines_.sources(); }

 private:
  JsonLines lines_;
  ChatStyle style_ = ChatStyle::kOpenAi;  ///< of the file that is being read
};

}  // namespace kvsmith
