#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace kvsmith {

/// Counts what a server does. Callable from any thread.
class Metrics {
 public:
  /// As they are now.
  struct Gauges {
    int64_t running = 0, queued = 0;  ///< texts
    int64_t cache_bytes = 0;          ///< of texts that run and of prompts that are kept
    int64_t kept_bytes = 0;           ///< of these: of prompts that are kept
    int64_t promised_bytes = 0;       ///< what they may grow to
    int64_t budget_bytes = 0;
  };

  /// One request, or one text of several in it, is over.
  void count_outcome(const std::string& outcome);
  void count_prompt(int64_t tokens, int64_t reused);
  void count_generated(int64_t tokens);
  void observe_first_token(double seconds);
  void set(const Gauges& gauges);

  Gauges gauges() const;
  /// The most bytes that caches ever had after a step.
  int64_t peak_cache_bytes() const;
  int64_t reused_tokens() const;
  int64_t prefix_hits() const;
  /// In Prometheus' text format.
  std::string text() const;

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::array kBounds = {0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0};
  static constexpr int64_t kSeconds = 10;  ///< over which the speed is a mean

  /// Tokens of one second of the clock.
  struct Second {
    int64_t at = -1, tokens = 0;
  };
  static int64_t now() {
    return std::chrono::duration_cast<std::chrono::seconds>(Clock::now().time_since_epoch())
        .count();
  }
  double tokens_per_second() const;

  mutable std::mutex mutex_;
  std::map<std::string, int64_t> outcomes_;
  int64_t prompt_tokens_ = 0, reused_tokens_ = 0, prefix_hits_ = 0, generated_tokens_ = 0;
  int64_t peak_cache_bytes_ = 0;
  Gauges gauges_;
  std::array<Second, kSeconds> speed_;
  std::array<int64_t, kBounds.size() + 1> first_token_counts_{};  ///< the last: beyond all bounds
  double first_token_seconds_ = 0;
};

}  // namespace kvsmith
