#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/line_reader.h"

namespace kvsmith {

/// The lines of .jsonl files, plain or .gz or .zst, one after the other; blank lines are passed
/// over. Memory: a few times the longest line.
class JsonLines {
 public:
  /// Throws as expand_inputs(), and 65 for a file that is not named .jsonl; `what` says what is
  /// read, such as "chats".
  JsonLines(const std::vector<std::string>& inputs, const std::string& what);

  /// The next line, valid until the next call. False at the end of the last input. Throws as
  /// LineReader.
  bool next(std::string_view& line);
  /// Whether the line given last is the first of its file.
  bool is_first() const { return is_first_; }
  /// "<file>:<line>" of the line given last.
  std::string where() const { return reader_->where(); }
  /// The files read to their end so far.
  const std::vector<CorpusSource>& sources() const { return sources_; }

 private:
  std::vector<std::filesystem::path> files_;
  size_t next_file_ = 0;
  std::optional<LineReader> reader_;
  bool is_first_ = false;
  std::vector<CorpusSource> sources_;
};

}  // namespace kvsmith
