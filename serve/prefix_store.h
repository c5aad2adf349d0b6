#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <vector>

#include "cache/exactness.h"
#include "models/decoder.h"
#include "serve/cache_budget.h"

namespace kvsmith {

/// Caches of texts that are over, for prompts that begin alike; those that were not used for
/// longest go first. Their bytes count as promised. Rows of one model serve no other. Not
/// thread-safe.
class PrefixStore {
 public:
  /// Keeps nothing unless by_chunks.
  PrefixStore(const KvGraph& graph, const CacheConfig& cache, CacheBudget& budget)
      : exactness_(CacheExactness::of(graph, cache)), budget_(budget) {}

  const CacheExactness& exactness() const { return exactness_; }

  /// A cache that has seen the first `tokens` tokens of a prompt, with no storage beyond them.
  struct Start {
    KvCache cache;
    int64_t tokens = 0;
  };
  /// The longest start of `prompt` that is here of `model`, at least its last token left out; none
  /// where it is too short to pay. The original stays where `bytes` more fit beside it, after older
  /// ones have gone; else it goes. Only with can_make_room(bytes).
  std::optional<Start> start_of(const std::vector<int32_t>& prompt,
                                int64_t bytes,
                                size_t model = 0);
  /// Whether `bytes` more fit once everything here has gone.
  bool can_make_room(int64_t bytes) const { return budget_.fits(bytes - bytes_); }
  /// Lets the oldest go until they do.
  void make_room(int64_t bytes);
  /// Keeps the cache of `tokens`, which `model` has read, where it fits.
  void keep(std::vector<int32_t> tokens, KvCache cache, size_t model = 0);
  /// Storage held.
  int64_t bytes() const { return bytes_; }
  int64_t bytes_used() const;

 private:
  struct Entry {
    std::vector<int32_t> tokens;
    KvCache cache;
    int64_t bytes = 0;
    size_t model = 0;
  };
  using Place = std::list<Entry>::iterator;

  /// Tokens of `entry` that `prompt` of `model` can start from.
  int64_t shared(const Entry& entry, const std::vector<int32_t>& prompt, size_t model) const;
  void remove(Place entry);

  CacheExactness exactness_;
  CacheBudget& budget_;
  std::list<Entry> entries_;  ///< the newest first
  int64_t bytes_ = 0;
};

}  // namespace kvsmith
