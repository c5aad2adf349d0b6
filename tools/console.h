#pragma once

#include <chrono>
#include <string>

namespace kvsmith {

/// Where a verb tells what it does: a line that is rewritten in place on a terminal, plain lines
/// otherwise, nothing when quiet. Writes to stderr, so that stdout holds only results.
class Console {
 public:
  explicit Console(bool quiet);
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  /// A line that stays.
  void note(const std::string& text);
  /// The state of long work. On a terminal at most ten times a second; elsewhere only when `stays`.
  void progress(const std::string& text, bool stays);

 private:
  void clear_line();

  bool quiet_, terminal_, line_open_ = false;
  std::chrono::steady_clock::time_point shown_{};
};

}  // namespace kvsmith
