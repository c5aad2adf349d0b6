#pragma once

#include <array>
#include <csignal>
#include <cstdint>
#include <string>
#include <vector>

namespace kvsmith {

/// The most memory that this process ever had in RAM, in bytes.
uint64_t peak_resident_bytes();

/// What a program that has ended leaves.
struct ChildResult {
  int exit_code = 0;   ///< 128 + the signal when one killed it
  std::string output;  ///< the last 64 KiB of its standard output and errors
};

/// Runs a program found in PATH, with nothing to read, and waits for its end. Throws Error 66 when
/// there is no such program.
ChildResult run_program(const std::vector<std::string>& arguments);

/// While it lives, the first SIGINT, SIGTERM or SIGUSR1 is only remembered, so that the program can
/// save and leave with 128 + its number; the second one, of any of the three, leaves at once. A
/// closed pipe and a file size limit are errors of write(2) instead of signals. At most one object
/// at a time; the destructor restores what was there before.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  /// Number of the signal that asked to stop, 0 while there was none. Callable from any thread, and
  /// after the object has gone.
  static int requested();

 private:
  std::array<struct sigaction, 5> before_{};
};

}  // namespace kvsmith
