#pragma once

#include <cstdint>
#include <string>

#include "models/decoder.h"

namespace kvsmith {

/// Holds the weights of all adapted linear maps, which are frozen, in a codec's blocks instead of
/// fp32 (`codec`: "q8_0" or "q4_0"; QLoRA, arXiv:2305.14314). Returns the bytes that they take now.
/// Throws Error (78) where rows do not fit into blocks.
int64_t hold_coded(DecoderImpl& model, const std::string& codec);

}  // namespace kvsmith
