#pragma once

#include <array>
#include <cstdio>
#include <string>

#include <sys/wait.h>

namespace kvsmith {

struct Outcome {
  int code = -1;     ///< of the exit, or 128 and the signal
  std::string text;  ///< stdout and stderr
};

/// Runs a command of the shell to its end.
inline Outcome run_command(const std::string& command) {
  Outcome out;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  std::array<char, 4096> buffer{};
  while (const size_t n = std::fread(buffer.data(), 1, buffer.size(), pipe))
    out.text.append(buffer.data(), n);
  const int status = pclose(pipe);
  out.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return out;
}

}  // namespace kvsmith
