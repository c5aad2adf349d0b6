#pragma once

#include <stdexcept>
#include <string>

namespace kvsmith {

/// Process exit codes, in the range of BSD's sysexits; scripts may rely on them.
enum class ExitCode : int {
  kDone = 0,
  kUsage = 64,         ///< bad command line
  kBadData = 65,       ///< malformed input file
  kMissingInput = 66,  ///< input file not there
  kInternal = 70,      ///< a promise of this program was broken
  kOutOfMemory = 71,
  kCannotCreate = 73,  ///< output exists, is locked or cannot be created
  kIo = 74,            ///< disk full, read or write error
  kPermission = 77,
  kConfig = 78,     ///< configuration invalid, or not the one of the checkpoint
  kNumerical = 80,  ///< training diverged, a result is not finite
};

/// What went wrong, where, and what the reader can do about it.
struct Problem {
  std::string what = {};    ///< "6 key/value heads do not divide 9 query heads"
  std::string where = {};   ///< "configs/tiny.toml:12:1: model.num_key_value_heads"
  std::string remedy = {};  ///< "choose 1, 3 or 9"; may be empty
};

/// The only exception this project throws. what(): "<where>: <what>; <remedy>".
class Error : public std::runtime_error {
 public:
  Error(ExitCode code, Problem problem);

  ExitCode code() const noexcept { return code_; }
  const Problem& problem() const noexcept { return problem_; }

 private:
  ExitCode code_;
  Problem problem_;
};

}  // namespace kvsmith
