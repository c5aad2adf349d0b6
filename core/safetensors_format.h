#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/safetensors.h"

namespace kvsmith::safetensors {

/// What the reader and the writer of core/safetensors.h share: limits of the format, sizes, and
/// words for messages.

static_assert(std::endian::native == std::endian::little, "data is read and written as it is");

inline constexpr uint64_t kLengthBytes = 8;
inline constexpr uint64_t kLargestHeader = 100'000'000;
inline constexpr size_t kMostTensors = 1'000'000;
inline constexpr size_t kMostDimensions = 8;
inline constexpr std::string_view kMetadataName = "__metadata__";

/// Bytes of a tensor; nothing when the number does not fit, even if another size is zero.
std::optional<uint64_t> size_of(const TensorInfo& info);

/// "<file>: tensor "<name>"".
std::string place_of(const std::string& file, const std::string& tensor);

}  // namespace kvsmith::safetensors
