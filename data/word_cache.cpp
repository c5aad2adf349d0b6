#include "data/word_cache.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace kvsmith {

WordCache::Key::Key(std::string_view word) {
  char bytes[32] = {};
  std::memcpy(bytes, word.data(), word.size());
  bytes[31] = static_cast<char>(word.size());
  std::memcpy(words.data(), bytes, sizeof bytes);
}

WordCache::Set& WordCache::set_of(const Key& key) {
  uint64_t hash = 0;
  for (const uint64_t word : key.words) {
    hash = (hash ^ word) * 0x9E3779B97F4A7C15;
    hash ^= hash >> 32;
  }
  return sets_[hash % kSets];
}

std::span<const int32_t> WordCache::find(const Key& key) {
  Set& set = set_of(key);
  for (size_t i = 0; i < set.size(); ++i) {
    if (set[i].words != key.words) continue;
    if (i > 0) std::swap(set[i], set[i - 1]);
    const Slot& slot = set[i > 0 ? i - 1 : 0];
    return {slot.ids.data(), static_cast<size_t>(slot.count)};
  }
  return {};
}

void WordCache::put(const Key& key, std::span<const int32_t> ids) {
  if (ids.size() > kMaxIds) return;
  Set& set = set_of(key);
  std::ranges::move_backward(set.begin(), set.end() - 1, set.end());
  Slot& slot = set[0];
  slot.words = key.words;
  slot.count = static_cast<int32_t>(ids.size());
  std::ranges::copy(ids, slot.ids.begin());
}

}  // namespace kvsmith
