#include "core/random.h"

#include <array>
#include <bit>
#include <cmath>
#include <set>
#include <string>

#include <gtest/gtest.h>

namespace kvsmith {
namespace {

TEST(Random, PhiloxIsThatOfItsAuthors) {
  // Random123, tests/kat_vectors, philox4x32 10.
  using Counter = std::array<uint32_t, 4>;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}),
            (Counter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({~0U, ~0U, ~0U, ~0U}, {~0U, ~0U}),
            (Counter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Counter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, ValuesNeverChange) {
  // From an independent implementation in Python: xxhash and Philox by hand.
  const struct {
    uint64_t seed;
    std::string purpose;
    uint64_t a, b, hash;
  } cases[] = {
      {0, "", 0, 0, 0x7a88f56dbc15b398},
      {1, "dropout", 0, 0, 0xda2a636fa14b2441},
      {1, "dropout", 7, 0, 0xc35b8db209bb1f12},
      {1, "dropout", 0, 7, 0x367d5b42c20a59a0},
      {42, "model.layers.0.self_attn.q_proj.weight", (uint64_t{1} << 40) + 3, ~uint64_t{0},
       0x35584726f1f2ccd},
      {~uint64_t{0}, "epoch", 1, 2, 0x826c32810a95cc2e},
  };
  for (const auto& [seed, purpose, a, b, hash] : cases) {
    EXPECT_EQ(hash_of(seed, purpose, a, b), hash) << seed << " " << purpose;
    EXPECT_EQ(uniform(seed, purpose, a, b), std::ldexp(static_cast<double>(hash >> 11), -53));
  }
}

TEST(Random, EveryFieldMatters) {
  std::set<uint64_t> seen;
  for (const uint64_t seed : {0, 1, 2}) {
    for (const auto* purpose : {"", "a", "b", "ab", "ba"}) {
      for (uint64_t a = 0; a < 20; ++a) {
        for (uint64_t b = 0; b < 20; ++b) seen.insert(hash_of(seed, purpose, a, b));
      }
    }
  }
  EXPECT_EQ(seen.size(), 3U * 5 * 20 * 20);
}

TEST(Random, DrawsAreUniform) {
  constexpr int kDraws = 200'000, kBins = 100;
  // Along each field, as a trainer would: chi-square with 99 degrees of freedom stays below 160
  // but once in 10,000 seeds; the seed is fixed.
  for (const int field : {0, 1, 2}) {
    std::array<int, kBins> bins{};
    double sum = 0;
    for (uint64_t i = 0; i < kDraws; ++i) {
      const double x = field == 0   ? uniform(i, "test")
                       : field == 1 ? uniform(7, "test", i)
                                    : uniform(7, "test", 3, i);
      ASSERT_TRUE(x >= 0 && x < 1);
      ++bins[static_cast<size_t>(x * kBins)];
      sum += x;
    }
    double chi_square = 0;
    constexpr double kExpected = double{kDraws} / kBins;
    for (const int count : bins) chi_square += std::pow(count - kExpected, 2) / kExpected;
    EXPECT_LT(chi_square, 160) << field;
    EXPECT_GT(chi_square, 55) << field;
    EXPECT_NEAR(sum / kDraws, 0.5, 4 * std::sqrt(1.0 / 12 / kDraws)) << field;
  }
}

TEST(Random, NeighboursShareHalfTheirBits) {
  constexpr int kPairs = 10'000;
  int differing = 0;
  for (uint64_t i = 0; i < kPairs; ++i) {
    differing += std::popcount(hash_of(7, "test", i) ^ hash_of(7, "test", i + 1));
  }
  EXPECT_NEAR(static_cast<double>(differing) / kPairs, 32, 4 * 4.0 / std::sqrt(kPairs));
}

}  // namespace
}  // namespace kvsmith
