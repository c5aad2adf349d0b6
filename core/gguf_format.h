#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/gguf.h"

namespace kvsmith::gguf {

/// What the reader and the writer of core/gguf.h share: limits of the format and sizes.

static_assert(std::endian::native == std::endian::little, "data is read and written as it is");

inline constexpr std::string_view kMagic = "GGUF";
inline constexpr uint32_t kOldestVersion = 2, kVersion = 3;
inline constexpr uint64_t kDefaultAlignment = 32, kLargestAlignment = uint64_t{1} << 20;
inline constexpr const char* kAlignmentKey = "general.alignment";
inline constexpr uint64_t kLongestKey = 65'535, kLongestName = 64, kMostDimensions = 4;
/// Beyond what any tokenizer needs; a file that claims more is not worth the memory.
inline constexpr uint64_t kLargestHeader = uint64_t{1} << 30;
inline constexpr uint64_t kMostTensors = 1'000'000, kMostValues = 1'000'000;

/// Bytes of one value; 0 for texts and arrays, and for numbers that are no type.
uint64_t bytes_of(GgufType type);
/// "uint32"; the number when it is no type.
std::string name_of(GgufType type);

/// Bytes of a tensor; nothing when the number does not fit in 63 bits. Its rows must be whole
/// blocks.
std::optional<uint64_t> size_of(const GgufTensor& tensor);

/// `offset` rounded up to a multiple of `alignment`, a power of two.
constexpr uint64_t aligned(uint64_t offset, uint64_t alignment) {
  return (offset + alignment - 1) & ~(alignment - 1);
}

}  // namespace kvsmith::gguf
