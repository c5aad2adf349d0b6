#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace kvsmith {

/// Runs jobs through three steps: `produce` fills the next job (false: there are no more), one call
/// at a time; `work` runs in `threads` threads; `consume` gets the jobs in the order they were
/// produced, in the calling thread. At most `depth` jobs are under way; they are used again, so
/// that their memory is too.
///
/// What a step throws is thrown here, after all threads have ended. Of several errors it is the one
/// of the earliest job, so that the outcome does not depend on the number of threads.
template <class Job>
void run_in_order(int threads,
                  size_t depth,
                  const std::function<bool(Job&)>& produce,
                  const std::function<void(Job&)>& work,
                  const std::function<void(Job&)>& consume) {
  enum class State { kFree, kTaken, kDone, kFailed };
  struct Slot {
    Job job{};
    State state = State::kFree;
    std::exception_ptr error{};
  };
  std::vector<Slot> ring(depth);
  std::mutex mutex, produce_mutex;
  std::condition_variable changed;
  uint64_t produced = 0;  // changed only under both mutexes
  bool finished = false, stopped = false;

  const auto set_state = [&](Slot& slot, State state) {
    const std::scoped_lock lock(mutex);
    slot.state = state;
    changed.notify_all();
  };
  // The next job, or nothing at the end; in the order of calls.
  const auto take = [&]() -> Slot* {
    const std::scoped_lock only_one(produce_mutex);
    Slot& slot = ring[produced % depth];
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return stopped || finished || slot.state == State::kFree; });
      if (stopped || finished) return nullptr;
      slot.state = State::kTaken;
    }
    bool more = true;
    try {
      more = produce(slot.job);
    } catch (...) {
      slot.error = std::current_exception();
    }
    const std::scoped_lock lock(mutex);
    if (!more || slot.error) finished = true;
    if (more) ++produced;
    if (slot.error) slot.state = State::kFailed;
    changed.notify_all();
    return finished ? nullptr : &slot;
  };
  const auto run = [&] {
    while (Slot* slot = take()) {
      try {
        work(slot->job);
        set_state(*slot, State::kDone);
      } catch (...) {
        slot->error = std::current_exception();
        set_state(*slot, State::kFailed);
      }
    }
  };

  std::vector<std::jthread> workers;
  const auto stop = [&] {
    {
      const std::scoped_lock lock(mutex);
      stopped = true;
      changed.notify_all();
    }
    workers.clear();
  };
  try {
    for (int i = 0; i < threads; ++i) workers.emplace_back(run);
    for (uint64_t next = 0;; ++next) {
      Slot& slot = ring[next % depth];
      {
        std::unique_lock lock(mutex);
        const auto is_ready = [&] {
          return next < produced && (slot.state == State::kDone || slot.state == State::kFailed);
        };
        changed.wait(lock, [&] { return is_ready() || (finished && next == produced); });
        if (!is_ready()) break;
      }
      if (slot.error) std::rethrow_exception(slot.error);
      consume(slot.job);
      set_state(slot, State::kFree);
    }
  } catch (...) {
    stop();
    throw;
  }
  stop();
}

}  // namespace kvsmith
