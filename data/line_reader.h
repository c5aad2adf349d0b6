#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "data/input_stream.h"

namespace kvsmith {

/// The lines of a file, plain or .gz or .zst, or of standard input ("-"). A byte order mark at the
/// start is left out. Memory: the longest line, at most 64 MiB.
class LineReader {
 public:
  /// Throws as InputStream.
  explicit LineReader(const std::filesystem::path& path);

  /// The next line, without its end (a newline, or one after a carriage return); valid until the
  /// next call. False at the end. Throws 65 for a line that is too long, and as InputStream.
  bool next(std::string_view& line);
  /// "<file>:<line>" of the line given last, for errors.
  std::string where() const;
  /// Of the whole file; to be called once, at the end.
  CorpusSource record() { return stream_.record(); }

 private:
  std::string name_;
  InputStream stream_;
  std::string buffer_;  ///< its lines were given up to `used_`
  size_t used_ = 0;
  uint64_t line_ = 0;
  bool at_end_ = false;  ///< nothing follows the buffer
};

}  // namespace kvsmith
