#include "tools/console.h"

#include <iostream>

#include <unistd.h>

namespace kvsmith {

Console::Console(bool quiet) : quiet_(quiet), terminal_(isatty(STDERR_FILENO) == 1) {}

Console::~Console() {
  if (line_open_) std::cerr << "\n";
}

void Console::clear_line() {
  if (line_open_) std::cerr << "\r\x1b[K";
  line_open_ = false;
}

void Console::note(const std::string& text) {
  if (quiet_) return;
  clear_line();
  std::cerr << text << std::endl;
}

void Console::progress(const std::string& text, bool stays) {
  if (quiet_) return;
  if (!terminal_) {
    if (stays) std::cerr << text << std::endl;
    return;
  }
  constexpr auto kPause = std::chrono::milliseconds(100);
  const auto now = std::chrono::steady_clock::now();
  if (!stays && now - shown_ < kPause) return;
  shown_ = now;
  std::cerr << "\r\x1b[K" << text << std::flush;
  line_open_ = true;
}

}  // namespace kvsmith
