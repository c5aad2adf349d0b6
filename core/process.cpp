#include "core/process.h"

#include <atomic>
#include <cerrno>

#include <fcntl.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "core/posix.h"
#include "core/text.h"

namespace kvsmith {
namespace {

// A handler may run in any thread, so a plain sig_atomic_t is not enough.
std::atomic<int> stop_signal{0};
static_assert(std::atomic<int>::is_always_lock_free);

void remember(int number) {
  int none = 0;
  if (!stop_signal.compare_exchange_strong(none, number)) ::_exit(128 + number);
}

struct Handling {
  int number;
  void (*handler)(int);
};
const std::array<Handling, 5> kHandlings = {{{SIGINT, remember},
                                             {SIGTERM, remember},
                                             {SIGUSR1, remember},
                                             {SIGPIPE, SIG_IGN},
                                             {SIGXFSZ, SIG_IGN}}};

/// What posix_spawn() does to the descriptors of the child.
class FileActions {
 public:
  FileActions() { ::posix_spawn_file_actions_init(&actions_); }
  ~FileActions() { ::posix_spawn_file_actions_destroy(&actions_); }
  FileActions(const FileActions&) = delete;
  FileActions& operator=(const FileActions&) = delete;
  posix_spawn_file_actions_t* get() { return &actions_; }

 private:
  posix_spawn_file_actions_t actions_{};
};

}  // namespace

uint64_t peak_resident_bytes() {
  struct rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

ChildResult run_program(const std::vector<std::string>& arguments) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) posix::fail("make a pipe", arguments[0], errno);
  const posix::Descriptor out(ends[0]);
  posix::Descriptor in(ends[1]);
  FileActions actions;
  ::posix_spawn_file_actions_addopen(actions.get(), STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_adddup2(actions.get(), in.get(), STDOUT_FILENO);
  ::posix_spawn_file_actions_adddup2(actions.get(), in.get(), STDERR_FILENO);
  std::vector<char*> words;
  for (const auto& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);
  pid_t child = 0;
  if (const int error =
          ::posix_spawnp(&child, words[0], actions.get(), nullptr, words.data(), environ)) {
    if (error != ENOENT) posix::fail("start", arguments[0], error);
    throw Error(ExitCode::kMissingInput, {"no such program", arguments[0], "install it first"});
  }
  in = posix::Descriptor();  // so that the child holds the only end to write to

  constexpr size_t kKept = size_t{64} << 10;
  ChildResult result;
  std::array<char, 4096> buffer{};
  while (true) {
    const ssize_t bytes =
        posix::retry([&] { return ::read(out.get(), buffer.data(), buffer.size()); });
    if (bytes <= 0) break;
    result.output.append(buffer.data(), static_cast<size_t>(bytes));
    if (result.output.size() > 2 * kKept) result.output.erase(0, result.output.size() - kKept);
  }
  int status = 0;
  posix::retry([&] { return ::waitpid(child, &status, 0); });
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

StopSignals::StopSignals() {
  stop_signal = 0;
  for (size_t i = 0; i < kHandlings.size(); ++i) {
    struct sigaction action{};
    action.sa_handler = kHandlings[i].handler;
    action.sa_flags = SA_RESTART;
    ::sigaction(kHandlings[i].number, &action, &before_[i]);
  }
}

StopSignals::~StopSignals() {
  for (size_t i = 0; i < kHandlings.size(); ++i) {
    ::sigaction(kHandlings[i].number, &before_[i], nullptr);
  }
}

int StopSignals::requested() { return stop_signal; }

}  // namespace kvsmith
