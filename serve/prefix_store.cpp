#include "serve/prefix_store.h"

#include <algorithm>
#include <utility>

namespace kvsmith {
namespace {

constexpr int64_t kLeastShared = 16;  // fewer tokens are read faster than a cache is copied

}  // namespace

int64_t PrefixStore::shared(const Entry& entry,
                            const std::vector<int32_t>& prompt,
                            size_t model) const {
  if (entry.model != model) return 0;
  const auto [mine, other] = std::ranges::mismatch(entry.tokens, prompt);
  const int64_t alike = mine - entry.tokens.begin();
  const auto most = static_cast<int64_t>(prompt.size()) - 1;
  if (exactness_.rewinds) return std::min(alike, most);
  const bool is_start = mine == entry.tokens.end() && alike <= most;
  return is_start ? alike : 0;
}

void PrefixStore::remove(Place entry) {
  budget_.release(entry->bytes);
  bytes_ -= entry->bytes;
  entries_.erase(entry);
}

void PrefixStore::make_room(int64_t bytes) {
  while (!entries_.empty() && !budget_.fits(bytes)) remove(std::prev(entries_.end()));
}

std::optional<PrefixStore::Start> PrefixStore::start_of(const std::vector<int32_t>& prompt,
                                                        int64_t bytes,
                                                        size_t model) {
  const auto best = std::ranges::max_element(
      entries_, {}, [&](const Entry& entry) { return shared(entry, prompt, model); });
  const int64_t tokens = best == entries_.end() ? 0 : shared(*best, prompt, model);
  if (tokens < kLeastShared) return {};
  entries_.splice(entries_.begin(), entries_, best);
  while (entries_.size() > 1 && !budget_.fits(bytes)) remove(std::prev(entries_.end()));
  Start start{best->cache.fork(tokens), tokens};
  if (!budget_.fits(bytes)) remove(best);
  return start;
}

void PrefixStore::keep(std::vector<int32_t> tokens, KvCache cache, size_t model) {
  const int64_t bytes = cache.bytes_reserved();
  if (!exactness_.by_chunks || tokens.empty() || !can_make_room(bytes)) return;
  const auto begins = [](const std::vector<int32_t>& text, const std::vector<int32_t>& start) {
    return std::ranges::mismatch(text, start).in2 == start.end();
  };
  if (exactness_.rewinds) {  // of two caches of one text the longer serves for both
    for (const auto& entry : entries_)
      if (entry.model == model && begins(entry.tokens, tokens)) return;
    for (auto entry = entries_.begin(); entry != entries_.end();) {
      const auto here = entry++;
      if (here->model == model && begins(tokens, here->tokens)) remove(here);
    }
  }
  make_room(bytes);
  budget_.promise(bytes);
  bytes_ += bytes;
  entries_.push_front({std::move(tokens), std::move(cache), bytes, model});
}

int64_t PrefixStore::bytes_used() const {
  int64_t sum = 0;
  for (const auto& entry : entries_) sum += entry.cache.bytes_used();
  return sum;
}

}  // namespace kvsmith
