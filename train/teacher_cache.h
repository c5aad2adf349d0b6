#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include <ATen/core/Tensor.h>

#include "ops/losses.h"
#include "ops/positions.h"

namespace kvsmith {

/// The likeliest tokens that a teacher expects, one HDF5 file a sequence, so that many runs over
/// the same texts ask it once. A file is named by what it answers, tokens and positions, and so
/// serves any order of the data; it is read only when whole.
class TeacherCache {
 public:
  /// Files lie in a folder of `directory` that is named by the rest of what they depend on.
  /// `teacher`: the hash of its weights.
  TeacherCache(const std::filesystem::path& directory,
               const std::string& teacher,
               double temperature,
               int64_t top_k);

  /// Of every token of `tokens`, [batch, seq], in rows of [batch * seq, top_k]; `ask` gives them
  /// where a sequence has no file, and they are kept. Throws Error: 65 for a damaged file, 73, 74
  /// and 77 when one cannot be written.
  TopTokens expected(const at::Tensor& tokens,
                     const Positions& positions,
                     const std::function<TopTokens()>& ask) const;

 private:
  std::filesystem::path directory_;
  int64_t top_k_;
};

}  // namespace kvsmith
