#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace kvsmith {

/// Remembers the token ids of short words in a table of 8 MiB: sets of four slots, in which a word
/// that is found moves to the front and a new one pushes out the last. Not safe for concurrent use.
class WordCache {
 public:
  static constexpr size_t kMaxWordBytes = 31, kMaxIds = 7;

  /// A word as it is looked up: padded with zeros, its length in the last byte.
  struct Key {
    explicit Key(std::string_view word);
    std::array<uint64_t, 4> words{};
  };

  WordCache() : sets_(kSets) {}

  /// The ids put for this word, or an empty span. Valid until the next call.
  std::span<const int32_t> find(const Key& key);
  /// Does nothing for more than kMaxIds ids. The word must not be there already.
  void put(const Key& key, std::span<const int32_t> ids);

 private:
  struct Slot {
    std::array<uint64_t, 4> words{};
    std::array<int32_t, kMaxIds> ids;
    int32_t count = 0;
  };
  using Set = std::array<Slot, 4>;
  static constexpr size_t kSets = size_t{1} << 15;

  Set& set_of(const Key& key);

  std::vector<Set> sets_;
};

}  // namespace kvsmith
