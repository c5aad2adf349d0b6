#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "core/files.h"

namespace kvsmith {

/// Writes a float32 array [rows, columns] as a NumPy file (.npy version 1.0), row by row; it
/// appears under its name when commit() returns.
class NpyWriter {
 public:
  NpyWriter(const std::filesystem::path& path, uint64_t rows, uint64_t columns);

  /// Appends one row, or several whole ones. Throws 70 when they are not whole or too many.
  void write(std::span<const float> values);
  /// Throws 70 when rows are missing. Returns the SHA-256 of the file in hex.
  std::string commit();

 private:
  AtomicFile file_;
  std::string where_;
  uint64_t columns_, missing_;  ///< missing_: values not written yet
};

}  // namespace kvsmith
