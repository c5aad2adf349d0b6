#pragma once

#include <functional>

#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"

namespace kvsmith {

/// For a child that finds that what it should test is not permitted on this machine.
constexpr int kNotPossibleHere = 99;

/// Runs `work` in a forked child. Returns its exit code, or that of the Error it throws, or 1000 +
/// the signal that killed it.
inline int in_child(const std::function<int()>& work) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    int code = 1;
    try {
      code = work();
    } catch (const Error& error) {
      code = static_cast<int>(error.code());
    } catch (...) {
      code = 2;
    }
    ::_exit(code);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

}  // namespace kvsmith
