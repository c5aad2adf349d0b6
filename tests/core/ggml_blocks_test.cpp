#include "core/ggml_blocks.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "core/half_float.h"
#include "core/hash.h"
#include "tests/support/expect_error.h"

namespace kvsmith {
namespace {

/// Bytes that any language makes in three lines, so that others can decode the same blocks.
std::vector<uint8_t> pseudorandom(uint32_t seed, size_t count) {
  std::vector<uint8_t> bytes(count);
  for (auto& byte : bytes) {
    seed = seed * 1664525U + 1013904223U;
    byte = static_cast<uint8_t>(seed >> 24);
  }
  return bytes;
}

template <class T>
std::string hash_of_all(const std::vector<T>& values) {
  return sha256({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)});
}

// 64 blocks whose scales are finite: the byte with the upper exponent bit of each loses that bit.
// Hashes: of dequantize() in the Python package gguf 0.19.0 on the same bytes, as little-endian
// fp32.
TEST(GgmlBlocks, DecodeToTheValuesOfThePythonPackage) {
  const struct {
    GgmlType type;
    std::vector<size_t> scale_bytes;
    std::string hash;
  } cases[] = {
      {GgmlType::kF32, {3}, "ce3c34e4310ab21b877396f3cbd7f0116b2b947f9203d72da294b6a3740f6e0e"},
      {GgmlType::kF16, {1}, "5a5909a6f9715d80d4a4824759ac3044b1d5898d80f29e0d037fbfff22336a53"},
      {GgmlType::kBF16, {1}, "a4c722648c5d330b959ae4355e879dc6fcc4e3d6404cddee62baf3e1b2dd6f5e"},
      {GgmlType::kQ40, {1}, "931846a1e46f22bb23c41d7df3f9bcf723618aa56e109780ec5e5b3c92a5ee42"},
      {GgmlType::kQ41, {1, 3}, "086f647f0b61869570379d65b83d221756d2a9c9805304b5880b8980ea7b8c58"},
      {GgmlType::kQ50, {1}, "45848ec0524ce5b57e72c8f1c05bb7d92fe6601bff379d4c791cca337de5ce2a"},
      {GgmlType::kQ51, {1, 3}, "60165fcfe0b19472895f1799d4409b2af52db358a8bd84f027da617fdfdb8715"},
      {GgmlType::kQ80, {1}, "221ce3025acc6da08bae0b2d82627e97afe6adfcbc40cc5d253967afba7ff6d2"},
      {GgmlType::kQ4K, {1, 3}, "f6ecb3567ca80abd7c61de9f63eba0e904b185bff99564b54e9147c4ea960d21"},
      {GgmlType::kQ5K, {1, 3}, "a30688630611017564f6cac8ea211604935140e3682014a134393363aea70f41"},
      {GgmlType::kQ6K, {209}, "a34c808d24745a98e5bd7cb68621655fb50fac73b3cba500e1ced6ee5ff589ea"},
  };
  for (const auto& [type, scale_bytes, hash] : cases) {
    const GgmlBlock& block = ggml_block(type);
    auto bytes = pseudorandom(static_cast<uint32_t>(type) + 1, size_t{64} * block.bytes);
    for (size_t i = 0; i < 64; ++i) {
      for (const size_t at : scale_bytes) bytes[i * block.bytes + at] &= 0xBF;
    }
    std::vector<float> values(size_t{64} * block.elements);
    decode_blocks(type, bytes.data(), values.size(), values.data());
    EXPECT_EQ(hash_of_all(values), hash) << block.name;
  }
}

/// Multiples of 2^-12 in [-8, 8), and blocks that are special: all zero, tiny, with ties.
std::vector<float> values_to_encode() {
  const auto raw = pseudorandom(7, 8192);
  std::vector<float> values(4096);
  for (size_t i = 0; i < values.size(); ++i) {
    const int number = raw[2 * i] + 256 * raw[2 * i + 1];
    values[i] = static_cast<float>(number - 32768) * 0x1p-12F;
  }
  for (size_t i = 0; i < 32; ++i) {
    const auto number = static_cast<float>(i);
    values[i] = 0;
    values[32 + i] = 0x1p-30F;
    values[64 + i] = number / 2;
    values[96 + i] = 0x1p-20F * number;
  }
  return values;
}

// Hashes: of quantize() in the Python package gguf 0.19.0, which is ggml's quantize_row_*_ref.
TEST(GgmlBlocks, EncodeToTheBytesOfThePythonPackage) {
  const std::pair<GgmlType, std::string> cases[] = {
      {GgmlType::kF16, "7130e28e51d315f1941bfc0106ccd39a7d15ffb4e72cc2bec84a1004a0f814e3"},
      {GgmlType::kBF16, "55c65a45d198024b96b5452ae9c56526862da2256fc2c65ea64e60fdf0c52845"},
      {GgmlType::kQ80, "afbf8295668bbb3497178c7efd6b0a7e5d428025dd8b2609eab332ef3a9e1994"},
      {GgmlType::kQ40, "6d83b738bb5cc19e6df0829855a6a9748f6c3ccd45fd38ee34e0e5b5fbfa9dc5"},
  };
  const auto values = values_to_encode();
  for (const auto& [type, hash] : cases) {
    const GgmlBlock& block = ggml_block(type);
    std::vector<uint8_t> bytes(values.size() / block.elements * block.bytes);
    ASSERT_TRUE(has_encoder(type));
    encode_blocks(type, values.data(), values.size(), bytes.data());
    EXPECT_EQ(hash_of_all(bytes), hash) << block.name;
  }
}

TEST(GgmlBlocks, EveryHalfSurvivesAndRoundingIsToEven) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = from_half(static_cast<uint16_t>(bits));
    const bool is_nan = (bits & 0x7FFFU) > 0x7C00U;
    ASSERT_EQ(std::isnan(value), is_nan) << bits;
    if (is_nan) continue;
    ASSERT_EQ(to_half(value), bits);
    const uint32_t exponent = bits >> 10 & 31U, fraction = bits & 1023U;
    if (exponent == 31) continue;
    const double magnitude = exponent == 0
                                 ? std::ldexp(fraction, -24)
                                 : std::ldexp(1024 + fraction, static_cast<int>(exponent) - 25);
    ASSERT_EQ(value, static_cast<float>(bits >> 15 ? -magnitude : magnitude)) << bits;
    // halfway to the next one, and a little beyond
    if ((bits & 0x7FFFU) == 0x7BFFU) continue;
    const float next = from_half(static_cast<uint16_t>(bits + 1)), middle = (value + next) / 2;
    ASSERT_EQ(to_half(middle), bits + (bits & 1U)) << bits;
    ASSERT_EQ(to_half(std::nextafter(middle, next)), bits + 1) << bits;
    ASSERT_EQ(to_half(std::nextafter(middle, value)), bits) << bits;
  }
  EXPECT_EQ(to_half(65519.996F), 0x7BFF);
  EXPECT_EQ(to_half(65520.0F), 0x7C00);
  EXPECT_EQ(to_half(-std::numeric_limits<float>::infinity()), 0xFC00);
  EXPECT_TRUE(std::isnan(from_half(to_half(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(GgmlBlocks, Bfloat16RoundsToEvenAndKeepsNaN) {
  EXPECT_EQ(to_bfloat16(1.0F), 0x3F80);
  EXPECT_EQ(to_bfloat16(1.0F + 0x1p-8F), 0x3F80);
  EXPECT_EQ(to_bfloat16(1.0F + 0x1p-7F + 0x1p-8F), 0x3F82);
  EXPECT_EQ(to_bfloat16(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_TRUE(std::isnan(from_bfloat16(to_bfloat16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_EQ(from_bfloat16(0x3F80), 1.0F);
}

TEST(GgmlBlocks, ValuesTooSmallForTheScaleBecomeZero) {
  for (const float tiny : {std::numeric_limits<float>::denorm_min(), 1e-40F, -1e-30F}) {
    std::vector<float> values(32, 0.0F);
    values[5] = tiny;
    for (const GgmlType type : {GgmlType::kQ80, GgmlType::kQ40}) {
      std::vector<uint8_t> bytes(ggml_block(type).bytes);
      encode_blocks(type, values.data(), 32, bytes.data());
      std::vector<float> back(32, 1.0F);
      decode_blocks(type, bytes.data(), 32, back.data());
      for (const float value : back) EXPECT_EQ(value, 0.0F);
    }
  }
}

TEST(GgmlBlocks, KnowsNamesSizesAndWhatItCannotDo) {
  for (const auto& name : ggml_type_names()) EXPECT_FALSE(name.empty());
  EXPECT_EQ(ggml_type_names().size(), 11U);
  EXPECT_EQ(find_ggml_block(23), nullptr);
  EXPECT_EQ(find_ggml_block(4), nullptr);
  EXPECT_EQ(describe_ggml_type(23), "23 (IQ4_XS)");
  EXPECT_EQ(describe_ggml_type(14), "14 (Q6_K)");
  EXPECT_EQ(describe_ggml_type(4), "4");
  EXPECT_FALSE(has_encoder(GgmlType::kQ4K));
  std::vector<float> values(256);
  std::vector<uint8_t> bytes(512);
  expect_error([&] { encode_blocks(GgmlType::kQ4K, values.data(), 256, bytes.data()); },
               ExitCode::kInternal, "nothing writes Q4_K blocks");
  expect_error([&] { decode_blocks(GgmlType::kQ4K, bytes.data(), 128, values.data()); },
               ExitCode::kInternal, "128 elements are no whole number of Q4_K blocks of 256");
}

}  // namespace
}  // namespace kvsmith
