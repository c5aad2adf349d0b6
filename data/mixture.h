#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvsmith {

/// In which order the items of some sources are drawn, endlessly: which of them comes at a position
/// is a pure function of (seed, position). Each epoch visits every item of a source once, in an
/// order given by a keyed permutation (no list in memory); of every 1,024 draws each source has its
/// exact share.
class Mixture {
 public:
  struct Draw {
    size_t source;
    uint64_t item;
  };

  /// `items`: how many each source has, at least one; `weights`: how often it is drawn from. Throws
  /// Error (78) without sources, and for weights that are not positive or below 1/1,024 of their
  /// sum.
  Mixture(std::vector<uint64_t> items,
          const std::vector<double>& weights,
          bool shuffle,
          uint64_t seed);

  Draw at(uint64_t position) const;
  /// Of all sources together.
  uint64_t items() const;

 private:
  struct Turn {
    size_t source;
    uint64_t rank;  ///< turns of the same source before this one in the cycle
  };

  std::vector<uint64_t> items_, slots_;
  bool shuffle_;
  uint64_t seed_;
  std::vector<Turn> cycle_;
};

/// A bijection of [0, size) keyed by (seed, round): a Feistel network with cycle walking.
uint64_t permute(uint64_t index, uint64_t size, uint64_t seed, uint64_t round);

}  // namespace kvsmith
