#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "serve/text_request.h"

namespace kvsmith {

/// A part of an answer, in the order in which parts appear.
struct ReplyPart {
  std::vector<ScoredToken> prompt;  ///< in the first part, where asked for
  std::vector<ScoredToken> tokens;  ///< new ones
  std::string text;                 ///< what has become certain: UTF-8
  Finish finish = Finish::kNone;
  Failure failure = {};  ///< of kRefused and kFailed
  int64_t reused = 0;    ///< of the prompt's tokens, those whose rows were there already
};

/// Carries an answer from the engine's thread to the one that waits for it. One writer, one reader;
/// cancel() from any thread.
class Reply {
 public:
  /// The next part, or none when `patience` runs out first. Nothing follows a part with a finish.
  std::optional<ReplyPart> next(std::chrono::milliseconds patience) {
    std::unique_lock lock(mutex_);
    has_more_.wait_for(lock, patience, [&] { return !parts_.empty(); });
    if (parts_.empty()) return {};
    auto part = std::move(parts_.front());
    parts_.pop_front();
    return part;
  }
  /// Nobody wants the rest.
  void cancel() { cancelled_ = true; }
  bool is_cancelled() const { return cancelled_; }

  void push(ReplyPart part) {
    const std::scoped_lock lock(mutex_);
    parts_.push_back(std::move(part));
    has_more_.notify_one();
  }

 private:
  std::mutex mutex_;
  std::condition_variable has_more_;
  std::deque<ReplyPart> parts_;
  std::atomic<bool> cancelled_ = false;
};

}  // namespace kvsmith
