#include "core/process.h"

#include <atomic>

#include <sys/resource.h>
#include <unistd.h>

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

}  // namespace

uint64_t peak_resident_bytes() {
  struct rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
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
