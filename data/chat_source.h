#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "data/chat_json.h"
#include "data/line_reader.h"

namespace kvsmith {

/// Chats of .jsonl files, plain or .gz or .zst, one a line; blank lines are passed over. All lines
/// of a file are in the ChatStyle of its first. Memory: a few times the longest line.
///
/// Errors: those of expand_inputs(), LineReader and parse_chat(), with file and line; 65 for a file
/// that is not named .jsonl.
class ChatSource {
 public:
  explicit ChatSource(const std::vector<std::string>& inputs);

  /// False at the end of the last input.
  bool next(std::vector<ChatMessage>& chat);
  /// The files read to their end so far.
  const std::vector<CorpusSource>& sources() const { return sources_; }

 private:
  std::vector<std::filesystem::path> files_;
  size_t next_file_ = 0;
  std::optional<LineReader> reader_;
  std::optional<ChatStyle> style_;  ///< of the file that is being read, once known
  std::vector<CorpusSource> sources_;
};

}  // namespace kvsmith
