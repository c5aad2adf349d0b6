#include <bit>

#include "data/mixture.h"

namespace kvsmith {
namespace {

constexpr int kRounds = 6;

/// The finaliser of SplitMix64: every bit of the input moves every bit of the output.
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t permute(uint64_t index, uint64_t size, uint64_t seed, uint64_t round) {
  if (size <= 1) return index;
  const uint64_t half = (std::bit_width(size - 1) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  const uint64_t key = mix(mix(seed) ^ round);
  // The network permutes the next power of four, at most 4 * size: walking its cycle from a member
  // of [0, size) comes back to one after at most a few steps on average.
  do {
    uint64_t left = index >> half, right = index & mask;
    for (uint64_t i = 0; i < kRounds; ++i) {
      const uint64_t next = left ^ (mix(key ^ mix(right + (i << 32))) & mask);
      left = right;
      right = next;
    }
    index = left << half | right;
  } while (index >= size);
  return index;
}

}  // namespace kvsmith
