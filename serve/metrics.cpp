#include "serve/metrics.h"

#include <algorithm>
#include <sstream>

namespace kvsmith {

void Metrics::count_outcome(const std::string& outcome) {
  const std::scoped_lock lock(mutex_);
  ++outcomes_[outcome];
}

void Metrics::count_prompt(int64_t tokens, int64_t reused) {
  const std::scoped_lock lock(mutex_);
  prompt_tokens_ += tokens;
  reused_tokens_ += reused;
  if (reused > 0) ++prefix_hits_;
}

void Metrics::count_generated(int64_t tokens) {
  const std::scoped_lock lock(mutex_);
  generated_tokens_ += tokens;
  Second& second = speed_[static_cast<size_t>(now() % kSeconds)];
  if (second.at != now()) second = {now(), 0};
  second.tokens += tokens;
}

void Metrics::observe_first_token(double seconds) {
  const std::scoped_lock lock(mutex_);
  const auto bound = std::ranges::lower_bound(kBounds, seconds);
  ++first_token_counts_[static_cast<size_t>(bound - kBounds.begin())];
  first_token_seconds_ += seconds;
}

void Metrics::set(const Gauges& gauges) {
  const std::scoped_lock lock(mutex_);
  gauges_ = gauges;
  peak_cache_bytes_ = std::max(peak_cache_bytes_, gauges.cache_bytes);
}

Metrics::Gauges Metrics::gauges() const {
  const std::scoped_lock lock(mutex_);
  return gauges_;
}

int64_t Metrics::peak_cache_bytes() const {
  const std::scoped_lock lock(mutex_);
  return peak_cache_bytes_;
}

int64_t Metrics::reused_tokens() const {
  const std::scoped_lock lock(mutex_);
  return reused_tokens_;
}

int64_t Metrics::prefix_hits() const {
  const std::scoped_lock lock(mutex_);
  return prefix_hits_;
}

double Metrics::tokens_per_second() const {
  int64_t sum = 0;
  for (const Second& second : speed_)
    if (second.at > now() - kSeconds) sum += second.tokens;
  return static_cast<double>(sum) / static_cast<double>(kSeconds);
}

std::string Metrics::text() const {
  const std::scoped_lock lock(mutex_);
  std::ostringstream out;
  const auto head = [&](const char* name, const char* type, const char* help) {
    out << "# HELP kvsmith_" << name << ' ' << help << "\n# TYPE kvsmith_" << name << ' ' << type
        << '\n';
  };
  const auto value = [&](const char* name, const char* type, const char* help, auto number) {
    head(name, type, help);
    out << "kvsmith_" << name << ' ' << number << '\n';
  };
  head("requests_total", "counter", "Texts that are over, and requests that never became one.");
  for (const auto& [outcome, count] : outcomes_)
    out << "kvsmith_requests_total{outcome=\"" << outcome << "\"} " << count << '\n';
  value("requests_running", "gauge", "Texts in the batch.", gauges_.running);
  value("requests_queued", "gauge", "Texts that wait for room.", gauges_.queued);
  value("prompt_tokens_total", "counter", "Tokens of prompts.", prompt_tokens_);
  value("prompt_tokens_reused_total", "counter", "Of these, those whose rows were there already.",
        reused_tokens_);
  value("prefix_hits_total", "counter", "Prompts that began like an earlier text.", prefix_hits_);
  value("generated_tokens_total", "counter", "New tokens.", generated_tokens_);
  value("generated_tokens_per_second", "gauge", "Mean of the last 10 seconds.",
        tokens_per_second());
  value("cache_bytes", "gauge", "Bytes that caches occupy.", gauges_.cache_bytes);
  value("cache_bytes_peak", "gauge", "The most there ever were.", peak_cache_bytes_);
  value("cache_kept_bytes", "gauge", "Of cache_bytes, those of texts that are over.",
        gauges_.kept_bytes);
  value("cache_promised_bytes", "gauge", "Bytes that caches may grow to.", gauges_.promised_bytes);
  value("cache_budget_bytes", "gauge", "Bytes that caches may occupy.", gauges_.budget_bytes);
  head("first_token_seconds", "histogram", "From the request to its first token.");
  int64_t below = 0;
  for (size_t i = 0; i < kBounds.size(); ++i) {
    below += first_token_counts_[i];
    out << "kvsmith_first_token_seconds_bucket{le=\"" << kBounds[i] << "\"} " << below << '\n';
  }
  below += first_token_counts_.back();
  out << "kvsmith_first_token_seconds_bucket{le=\"+Inf\"} " << below << '\n'
      << "kvsmith_first_token_seconds_sum " << first_token_seconds_ << '\n'
      << "kvsmith_first_token_seconds_count " << below << '\n';
  return std::move(out).str();
}

}  // namespace kvsmith
