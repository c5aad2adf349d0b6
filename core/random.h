#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace kvsmith {

/// Randomness without state: every draw is a pure function of what it is for, so that a resumed
/// run, another order of calls or another number of processes draws the same.

/// Philox4x32-10 (Salmon et al., SC 2011): 128 random bits from a 128-bit counter and a 64-bit key.
std::array<uint32_t, 4> philox(const std::array<uint32_t, 4>& counter,
                               const std::array<uint32_t, 2>& key);

/// 64 random bits for `purpose` ("dropout", a parameter name) at place (a, b), such as step and
/// micro-batch: the low half of philox with (a, b) as the counter and XXH3-64 of `purpose`, seeded
/// with `seed`, as the key. The values are part of the format of checkpoints: they never change.
uint64_t hash_of(uint64_t seed, std::string_view purpose, uint64_t a = 0, uint64_t b = 0);

/// As hash_of(), as a number in [0, 1) with 53 random bits.
double uniform(uint64_t seed, std::string_view purpose, uint64_t a = 0, uint64_t b = 0);

}  // namespace kvsmith
