#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace kvsmith {

/// How ggml stores the elements of a row: singly, or quantised in blocks that share a scale. Values
/// are the numbers in GGUF files (`enum ggml_type` of docs/gguf.md in github.com/ggml-org/ggml);
/// those not listed are not supported.
enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ40 = 2,
  kQ41 = 3,
  kQ50 = 6,
  kQ51 = 7,
  kQ80 = 8,
  kQ4K = 12,
  kQ5K = 13,
  kQ6K = 14,
  kBF16 = 30,
};

/// The name and sizes of a type: `bytes` hold `elements` consecutive elements of a row.
struct GgmlBlock {
  GgmlType type;
  const char* name;
  uint32_t elements, bytes;
};

/// nullptr when the type of this number is not supported.
const GgmlBlock* find_ggml_block(uint32_t type);
const GgmlBlock& ggml_block(GgmlType type);
/// "23 (IQ4_XS)": the number with its name in ggml, where it has one.
std::string describe_ggml_type(uint32_t type);
/// Names of all supported types.
std::vector<std::string> ggml_type_names();

/// The values of `count` elements, a whole number of blocks, equal to the last bit to those of
/// ggml's reference code and the Python package `gguf`.
void decode_blocks(GgmlType type, const void* blocks, uint64_t count, float* values);

/// Whether encode_blocks() knows the type: F32, F16, BF16, Q8_0, Q4_0.
bool has_encoder(GgmlType type);
/// The reverse, rounding as the reference code does. Values must be finite for quantised types; F16
/// overflows to infinity beyond 65,504.
void encode_blocks(GgmlType type, const float* values, uint64_t count, void* blocks);

}  // namespace kvsmith
