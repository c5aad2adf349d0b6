#pragma once

#include <filesystem>
#include <string>

#include "core/files.h"

namespace kvsmith {

/// Publishes a directory of two files that both hold `content`.
inline void make_directory(const std::filesystem::path& path, const std::string& content) {
  AtomicDirectory directory(path);
  write_file(directory.path() / "a", content);
  write_file(directory.path() / "b", content);
  directory.commit();
}

/// What both files of a directory say, or why it is none of make_directory's.
inline std::string content_of(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return "missing";
  if (!std::filesystem::exists(path / "a") || !std::filesystem::exists(path / "b"))
    return "incomplete";
  const std::string a = read_file(path / "a");
  return a == read_file(path / "b") ? a : "mixture";
}

}  // namespace kvsmith
