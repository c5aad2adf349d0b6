#include "core/ggml_blocks.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/half_float.h"
#include "core/text.h"

namespace kvsmith {
namespace {

static_assert(std::endian::native == std::endian::little,
              "blocks are read and written as they are");

constexpr int kShort = 32, kLong = 256;  ///< elements of a block: QK4_0 and so on, QK_K

// The block layouts are those of ggml/src/ggml-common.h in github.com/ggml-org/ggml. Their scales
// are halves; all members are bytes, so that blocks need no alignment.
using Half = std::array<uint8_t, 2>;

struct BlockQ40 {  ///< (low nibbles: elements 0 to 15, high ones: 16 to 31) - 8, times scale
  Half scale;
  std::array<uint8_t, kShort / 2> nibbles;
};
struct BlockQ41 {  ///< nibble * scale + minimum
  Half scale, minimum;
  std::array<uint8_t, kShort / 2> nibbles;
};
struct BlockQ50 {  ///< as Q4_0 with a fifth bit, less 16
  Half scale;
  std::array<uint8_t, kShort / 8> fifth_bits;
  std::array<uint8_t, kShort / 2> nibbles;
};
struct BlockQ51 {  ///< as Q4_1 with a fifth bit
  Half scale, minimum;
  std::array<uint8_t, kShort / 8> fifth_bits;
  std::array<uint8_t, kShort / 2> nibbles;
};
struct BlockQ80 {
  Half scale;
  std::array<int8_t, kShort> values;
};
struct BlockQ4K {  ///< eight groups of 32 with 6-bit scales and minima of their own
  Half scale, minimum;
  std::array<uint8_t, 12> group_scales;
  std::array<uint8_t, kLong / 2> nibbles;
};
struct BlockQ5K {  ///< as Q4_K; bit g of byte i is the fifth bit of element i in group g
  Half scale, minimum;
  std::array<uint8_t, 12> group_scales;
  std::array<uint8_t, kLong / 8> fifth_bits;
  std::array<uint8_t, kLong / 2> nibbles;
};
struct BlockQ6K {  ///< sixteen groups of 16 with 8-bit scales
  std::array<uint8_t, kLong / 2> nibbles;
  std::array<uint8_t, kLong / 4> upper_bits;
  std::array<int8_t, kLong / 16> group_scales;
  Half scale;
};

constexpr auto kBlocks = std::to_array<GgmlBlock>({
    {GgmlType::kF32, "F32", 1, 4},
    {GgmlType::kF16, "F16", 1, 2},
    {GgmlType::kBF16, "BF16", 1, 2},
    {GgmlType::kQ40, "Q4_0", kShort, sizeof(BlockQ40)},
    {GgmlType::kQ41, "Q4_1", kShort, sizeof(BlockQ41)},
    {GgmlType::kQ50, "Q5_0", kShort, sizeof(BlockQ50)},
    {GgmlType::kQ51, "Q5_1", kShort, sizeof(BlockQ51)},
    {GgmlType::kQ80, "Q8_0", kShort, sizeof(BlockQ80)},
    {GgmlType::kQ4K, "Q4_K", kLong, sizeof(BlockQ4K)},
    {GgmlType::kQ5K, "Q5_K", kLong, sizeof(BlockQ5K)},
    {GgmlType::kQ6K, "Q6_K", kLong, sizeof(BlockQ6K)},
});
static_assert(sizeof(BlockQ40) == 18 && sizeof(BlockQ41) == 20 && sizeof(BlockQ50) == 22 &&
              sizeof(BlockQ51) == 24 && sizeof(BlockQ80) == 34 && sizeof(BlockQ4K) == 144 &&
              sizeof(BlockQ5K) == 176 && sizeof(BlockQ6K) == 210);

/// Types that ggml has or had and this program does not read.
constexpr std::pair<uint32_t, const char*> kOtherTypes[] = {
    {9, "Q8_1"},     {10, "Q2_K"},  {11, "Q3_K"},   {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"},
    {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"},   {23, "IQ4_XS"},
    {24, "I8"},      {25, "I16"},   {26, "I32"},    {27, "I64"},   {28, "F64"},     {29, "IQ1_M"},
    {34, "TQ1_0"},   {35, "TQ2_0"}, {39, "MXFP4"},  {40, "NVFP4"}, {41, "Q1_0"},
};

float value_of(Half half) { return from_half(std::bit_cast<uint16_t>(half)); }
Half half_of(float value) { return std::bit_cast<Half>(to_half(value)); }

/// Bit `i` of the fifth bits, moved to the place of 16.
uint32_t fifth_bit(uint32_t bits, int i) { return bits >> i << 4 & 16U; }

void decode(const BlockQ40& block, float* out) {
  const float scale = value_of(block.scale);
  for (int i = 0; i < kShort / 2; ++i) {
    out[i] = scale * static_cast<float>((block.nibbles[i] & 15) - 8);
    out[i + kShort / 2] = scale * static_cast<float>((block.nibbles[i] >> 4) - 8);
  }
}

void decode(const BlockQ41& block, float* out) {
  const float scale = value_of(block.scale), minimum = value_of(block.minimum);
  for (int i = 0; i < kShort / 2; ++i) {
    out[i] = scale * static_cast<float>(block.nibbles[i] & 15) + minimum;
    out[i + kShort / 2] = scale * static_cast<float>(block.nibbles[i] >> 4) + minimum;
  }
}

void decode(const BlockQ50& block, float* out) {
  const float scale = value_of(block.scale);
  const auto fifth = std::bit_cast<uint32_t>(block.fifth_bits);
  for (int i = 0; i < kShort / 2; ++i) {
    const auto low = static_cast<int>((block.nibbles[i] & 15U) | fifth_bit(fifth, i));
    const auto high = static_cast<int>((block.nibbles[i] >> 4U) | fifth_bit(fifth, i + 16));
    out[i] = scale * static_cast<float>(low - 16);
    out[i + kShort / 2] = scale * static_cast<float>(high - 16);
  }
}

void decode(const BlockQ51& block, float* out) {
  const float scale = value_of(block.scale), minimum = value_of(block.minimum);
  const auto fifth = std::bit_cast<uint32_t>(block.fifth_bits);
  for (int i = 0; i < kShort / 2; ++i) {
    const auto low = static_cast<int>((block.nibbles[i] & 15U) | fifth_bit(fifth, i));
    const auto high = static_cast<int>((block.nibbles[i] >> 4U) | fifth_bit(fifth, i + 16));
    out[i] = scale * static_cast<float>(low) + minimum;
    out[i + kShort / 2] = scale * static_cast<float>(high) + minimum;
  }
}

void decode(const BlockQ80& block, float* out) {
  const float scale = value_of(block.scale);
  for (int i = 0; i < kShort; ++i) out[i] = static_cast<float>(block.values[i]) * scale;
}

/// Scale and minimum of group `i` of 8. The first four have their six bits in bytes i and i + 4; of
/// the last four, bytes i + 4 hold the lower four bits of both, the upper two bits of bytes i - 4
/// and i the rest.
std::pair<int, int> scale_and_minimum(const std::array<uint8_t, 12>& packed, size_t i) {
  if (i < 4) return {packed[i] & 63, packed[i + 4] & 63};
  return {(packed[i + 4] & 15) | (packed[i - 4] >> 6 << 4),
          (packed[i + 4] >> 4) | (packed[i] >> 6 << 4)};
}

/// Of Q4_K and Q5_K; `fifth(group, i)` is what the fifth bit of an element adds.
template <class Block, class Fifth>
void decode_groups(const Block& block, float* out, Fifth fifth) {
  constexpr size_t kGroup = 32;
  const float scale = value_of(block.scale), minimum = value_of(block.minimum);
  for (size_t group = 0; group < kLong / kGroup; ++group, out += kGroup) {
    const auto [own_scale, own_minimum] = scale_and_minimum(block.group_scales, group);
    const float d = scale * static_cast<float>(own_scale);
    const float m = minimum * static_cast<float>(own_minimum);
    // two groups share 32 bytes, the first has the low nibbles
    const uint8_t* const nibbles = block.nibbles.data() + group / 2 * kGroup;
    const size_t shift = group % 2 * 4;
    for (size_t i = 0; i < kGroup; ++i)
      out[i] = d * static_cast<float>((nibbles[i] >> shift & 15) | fifth(group, i)) - m;
  }
}

void decode(const BlockQ4K& block, float* out) {
  decode_groups(block, out, [](size_t, size_t) { return 0; });
}

void decode(const BlockQ5K& block, float* out) {
  decode_groups(block, out,
                [&](size_t group, size_t i) { return (block.fifth_bits[i] >> group & 1) << 4; });
}

void decode(const BlockQ6K& block, float* out) {
  constexpr size_t kRun = 32;  // elements whose bits lie at the same places of consecutive bytes
  for (size_t run = 0; run < kLong / kRun; ++run, out += kRun) {
    const size_t half = run / 4, quarter = run % 4;
    const uint8_t* const low = block.nibbles.data() + half * 64 + quarter % 2 * kRun;
    const uint8_t* const high = block.upper_bits.data() + half * kRun;
    const size_t low_shift = quarter / 2 * 4, high_shift = quarter * 2;
    std::array<float, 2> scales{};
    for (size_t i = 0; i < 2; ++i)
      scales[i] = value_of(block.scale) * static_cast<float>(block.group_scales[run * 2 + i]);
    for (size_t i = 0; i < kRun; ++i) {
      const int value = (low[i] >> low_shift & 15) | (high[i] >> high_shift & 3) << 4;
      out[i] = scales[i / 16] * static_cast<float>(value - 32);
    }
  }
}

/// Nearest integer, halves away from zero, within [-128, 127].
int8_t rounded(float value) {
  // also where the inverse of a tiny scale has overflowed; the scale is 0 as a half then
  const float magnitude = std::fabs(value) < 127.0F ? std::fabs(value) : 127.0F;
  int whole = static_cast<int>(magnitude);
  if (magnitude - static_cast<float>(whole) >= 0.5F) ++whole;
  return static_cast<int8_t>(value < 0 ? -whole : whole);
}

void encode(const float* in, BlockQ80& block) {
  float largest = 0;
  for (int i = 0; i < kShort; ++i) largest = std::max(largest, std::fabs(in[i]));
  const float scale = largest / 127.0F, inverse = scale != 0 ? 1.0F / scale : 0.0F;
  block.scale = half_of(scale);
  for (int i = 0; i < kShort; ++i) block.values[i] = rounded(in[i] * inverse);
}

void encode(const float* in, BlockQ40& block) {
  // the first value of the largest magnitude becomes exactly -8
  float largest = 0, extreme = 0;
  for (int i = 0; i < kShort; ++i) {
    if (std::fabs(in[i]) > largest) {
      largest = std::fabs(in[i]);
      extreme = in[i];
    }
  }
  const float scale = extreme / -8.0F, inverse = scale != 0 ? 1.0F / scale : 0.0F;
  block.scale = half_of(scale);
  const auto nibble = [inverse](float value) {
    // also in range where `inverse` has overflowed; the scale is 0 as a half then
    const float shifted = value * inverse + 8.5F;
    return static_cast<uint8_t>(shifted > 0 ? std::min(shifted, 15.0F) : 0.0F);
  };
  for (int i = 0; i < kShort / 2; ++i)
    block.nibbles[i] = static_cast<uint8_t>(nibble(in[i]) | nibble(in[i + kShort / 2]) << 4);
}

template <class Block>
void decode_all(const void* blocks, uint64_t count, uint32_t elements, float* out) {
  const auto* const bytes = static_cast<const char*>(blocks);
  for (uint64_t i = 0; i < count / elements; ++i) {
    Block block;
    std::memcpy(&block, bytes + i * sizeof block, sizeof block);
    decode(block, out + i * elements);
  }
}

template <class Block>
void encode_all(const float* in, uint64_t count, uint32_t elements, void* blocks) {
  auto* const bytes = static_cast<char*>(blocks);
  for (uint64_t i = 0; i < count / elements; ++i) {
    Block block;
    encode(in + i * elements, block);
    std::memcpy(bytes + i * sizeof block, &block, sizeof block);
  }
}

/// Converts elements of 16 bits, which may lie anywhere, to float.
template <class Convert>
void widen(const void* data, uint64_t count, float* out, Convert convert) {
  const auto* const bytes = static_cast<const char*>(data);
  for (uint64_t i = 0; i < count; ++i) {
    uint16_t bits = 0;
    std::memcpy(&bits, bytes + 2 * i, 2);
    out[i] = convert(bits);
  }
}

template <class Convert>
void narrow(const float* in, uint64_t count, void* data, Convert convert) {
  auto* const bytes = static_cast<char*>(data);
  for (uint64_t i = 0; i < count; ++i) {
    const uint16_t bits = convert(in[i]);
    std::memcpy(bytes + 2 * i, &bits, 2);
  }
}

void expect_whole_blocks(const GgmlBlock& block, uint64_t count) {
  if (count % block.elements == 0) return;
  throw Error(ExitCode::kInternal, {cat(count, " elements are no whole number of ", block.name,
                                        " blocks of ", block.elements),
                                    "ggml blocks", "this is a bug; please report it"});
}

}  // namespace

const GgmlBlock* find_ggml_block(uint32_t type) {
  const auto found = std::ranges::find(kBlocks, static_cast<GgmlType>(type), &GgmlBlock::type);
  return found == kBlocks.end() ? nullptr : &*found;
}

const GgmlBlock& ggml_block(GgmlType type) { return *find_ggml_block(static_cast<uint32_t>(type)); }

std::string describe_ggml_type(uint32_t type) {
  const char* name = nullptr;
  if (const auto* block = find_ggml_block(type)) name = block->name;
  for (const auto& [number, other] : kOtherTypes) {
    if (number == type) name = other;
  }
  return name ? cat(type, " (", name, ")") : std::to_string(type);
}

std::vector<std::string> ggml_type_names() {
  std::vector<std::string> names;
  for (const auto& block : kBlocks) names.emplace_back(block.name);
  return names;
}

void decode_blocks(GgmlType type, const void* blocks, uint64_t count, float* values) {
  const GgmlBlock& block = ggml_block(type);
  expect_whole_blocks(block, count);
  switch (type) {
    case GgmlType::kF32:
      std::memcpy(values, blocks, count * sizeof(float));
      return;
    case GgmlType::kF16:
      return widen(blocks, count, values, from_half);
    case GgmlType::kBF16:
      return widen(blocks, count, values, from_bfloat16);
    case GgmlType::kQ40:
      return decode_all<BlockQ40>(blocks, count, block.elements, values);
    case GgmlType::kQ41:
      return decode_all<BlockQ41>(blocks, count, block.elements, values);
    case GgmlType::kQ50:
      return decode_all<BlockQ50>(blocks, count, block.elements, values);
    case GgmlType::kQ51:
      return decode_all<BlockQ51>(blocks, count, block.elements, values);
    case GgmlType::kQ80:
      return decode_all<BlockQ80>(blocks, count, block.elements, values);
    case GgmlType::kQ4K:
      return decode_all<BlockQ4K>(blocks, count, block.elements, values);
    case GgmlType::kQ5K:
      return decode_all<BlockQ5K>(blocks, count, block.elements, values);
    case GgmlType::kQ6K:
      return decode_all<BlockQ6K>(blocks, count, block.elements, values);
  }
}

bool has_encoder(GgmlType type) {
  return type == GgmlType::kF32 || type == GgmlType::kF16 || type == GgmlType::kBF16 ||
         type == GgmlType::kQ80 || type == GgmlType::kQ40;
}

void encode_blocks(GgmlType type, const float* values, uint64_t count, void* blocks) {
  const GgmlBlock& block = ggml_block(type);
  expect_whole_blocks(block, count);
  switch (type) {
    case GgmlType::kF32:
      std::memcpy(blocks, values, count * sizeof(float));
      return;
    case GgmlType::kF16:
      return narrow(values, count, blocks, to_half);
    case GgmlType::kBF16:
      return narrow(values, count, blocks, to_bfloat16);
    case GgmlType::kQ80:
      return encode_all<BlockQ80>(values, count, block.elements, blocks);
    case GgmlType::kQ40:
      return encode_all<BlockQ40>(values, count, block.elements, blocks);
    default:
      throw Error(ExitCode::kInternal, {cat("nothing writes ", block.name, " blocks"),
                                        "ggml blocks", "this is a bug; please report it"});
  }
}

}  // namespace kvsmith
