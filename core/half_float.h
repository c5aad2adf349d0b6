#pragma once

#include <bit>
#include <cstdint>

namespace kvsmith {

/// IEEE 754 half precision and bfloat16 from and to float. Without branches on data, so that loops
/// over them become vector code on machines without such instructions.

inline float from_half(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000U} << 16;
  const uint32_t exponent = half & 0x7C00U, magnitude = half & 0x7FFFU;
  const uint32_t bias = exponent == 0x7C00U ? 224U << 23 : 112U << 23;  // infinity stays infinity
  const uint32_t normal = (magnitude << 13) + bias;
  const auto subnormal = std::bit_cast<uint32_t>(static_cast<float>(magnitude) * 0x1p-24F);
  return std::bit_cast<float>((exponent == 0 ? subnormal : normal) | sign);
}

/// Rounds to nearest, ties to even; magnitudes from 65,520 on become infinite.
inline uint16_t to_half(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000U, magnitude = bits & 0x7FFFFFFFU;
  uint32_t half = (magnitude + 0xFFFU + (magnitude >> 13 & 1U) - (112U << 23)) >> 13;
  // Below 2^-14 the last place of a half is 2^-24, as that of a float between 0.5 and 1.
  const auto small = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3F000000U;
  half = magnitude < 0x38800000U ? small : half;
  half = magnitude >= 0x477FF000U ? 0x7C00U : half;
  half = magnitude > 0x7F800000U ? 0x7E00U : half;
  return static_cast<uint16_t>(half | sign);
}

inline float from_bfloat16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

/// Rounds to nearest, ties to even.
inline uint16_t to_bfloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7FFFU + (bits >> 16 & 1U)) >> 16;
  const bool is_nan = (bits & 0x7FFFFFFFU) > 0x7F800000U;
  return static_cast<uint16_t>(is_nan ? bits >> 16 | 64U : rounded);
}

}  // namespace kvsmith
