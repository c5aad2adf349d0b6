#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>

#include "data/corpus.h"

namespace kvsmith {

/// A file, or "-" for standard input, read from begin to end and unpacked on the way where its name
/// ends in .gz or .zst. Hashes the bytes as stored.
class InputStream {
 public:
  /// Throws 66 when missing, 65 for anything but a regular file.
  explicit InputStream(const std::filesystem::path& path);
  ~InputStream();
  InputStream(InputStream&&) noexcept;
  InputStream& operator=(InputStream&&) noexcept;

  /// The next at most `bytes` unpacked bytes; 0 only at the end. Throws 65 for compressed data that
  /// is damaged or cut off, and for a file that changed while being read; 74 when reading fails.
  size_t read(char* out, size_t bytes);
  /// Name, size and SHA-256 of what has been read; complete, and to be called once, at the end.
  CorpusSource record();
  bool is_compressed() const;

  /// What unpacks the input, behind read().
  class Unpacker;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvsmith
