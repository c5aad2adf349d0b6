#include "core/random.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace kvsmith {
namespace {

uint32_t low(uint64_t x) { return static_cast<uint32_t>(x); }
uint32_t high(uint64_t x) { return static_cast<uint32_t>(x >> 32); }

}  // namespace

std::array<uint32_t, 4> philox(const std::array<uint32_t, 4>& counter,
                               const std::array<uint32_t, 2>& key) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  auto x = counter;
  auto [k0, k1] = key;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = kMultiplier0 * x[0];
    const uint64_t p1 = kMultiplier1 * x[2];
    x = {high(p1) ^ x[1] ^ k0, low(p1), high(p0) ^ x[3] ^ k1, low(p0)};
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return x;
}

uint64_t hash_of(uint64_t seed, std::string_view purpose, uint64_t a, uint64_t b) {
  const uint64_t key = XXH3_64bits_withSeed(purpose.data(), purpose.size(), seed);
  const auto bits = philox({low(a), high(a), low(b), high(b)}, {low(key), high(key)});
  return uint64_t{bits[1]} << 32 | bits[0];
}

double uniform(uint64_t seed, std::string_view purpose, uint64_t a, uint64_t b) {
  return static_cast<double>(hash_of(seed, purpose, a, b) >> 11) * 0x1p-53;
}

}  // namespace kvsmith
