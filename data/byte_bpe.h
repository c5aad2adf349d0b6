#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace kvsmith {

/// Byte pair encoding of one word at a time, from its bytes up: of all neighbours that may be
/// merged, those of the lowest rank are, the leftmost first.
class ByteBpe {
 public:
  struct Merge {
    int32_t left, right, result;
  };
  /// Ids by word, to be used without any merging.
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  using Words = std::unordered_map<std::string, int32_t, Hash, std::equal_to<>>;

  /// Memory that encode() works in; not to be shared between threads.
  class Workspace {
    friend class ByteBpe;
    struct Symbol {
      int32_t id, before, after;  ///< -1: none
    };
    struct Candidate {
      uint32_t rank;
      int32_t place, left, right, result;
    };
    std::vector<Symbol> symbols_;
    std::vector<Candidate> heap_;
    std::vector<int32_t> ids_;
    std::vector<uint32_t> ranks_;
  };

  /// `byte_ids`: the token of each byte, -1 for bytes to leave out. `merges` by rank, fewer than
  /// 2^32, no pair twice.
  ByteBpe(const std::array<int32_t, 256>& byte_ids, std::span<const Merge> merges, Words words);

  /// Appends the ids of a word. Words of up to 48 bytes take quadratic time at worst, longer ones
  /// n log n.
  void encode(std::string_view word, Workspace& work, std::vector<int32_t>& ids) const;

 private:
  static constexpr uint32_t kNone = UINT32_MAX;  // no such merge
  struct Slot {
    int32_t left = -1, right = -1, result = -1;
    uint32_t rank = kNone;
  };

  /// The merge of two neighbours; its rank is kNone where they stay apart.
  const Slot& find(int32_t left, int32_t right) const;
  void encode_short(std::string_view word, Workspace& work, std::vector<int32_t>& ids) const;
  void encode_long(std::string_view word, Workspace& work, std::vector<int32_t>& ids) const;

  std::array<int32_t, 256> byte_ids_;
  std::vector<Slot> slots_;  ///< open addressing, at most half full
  int shift_ = 0;            ///< from a hash to a slot
  Words words_;
};

}  // namespace kvsmith
