#include "cache/row_codec.h"

#include <algorithm>

#include <torch/types.h>

#include "cache/codecs/codecs.h"
#include "core/error.h"
#include "core/text.h"

namespace kvsmith {

const std::vector<RowCodecKind>& row_codecs() {
  static const std::vector<RowCodecKind> kinds = {
      {"fp32", "exact, 32 bits", make_fp32_rows, needs_multiple_of<1>},
      {"bf16", "16 bits", make_bf16_rows, needs_multiple_of<1>},
      {"fp16", "16 bits", make_fp16_rows, needs_multiple_of<1>},
      {"fp8_e4m3", "8 bits without a scale, up to 448", make_fp8_e4m3_rows, needs_multiple_of<1>},
      {"int8", "min-max a row, 8 bits and 4 bytes a row", make_int8_rows, needs_multiple_of<1>},
      {"int4", "min-max a row, 4 bits and 4 bytes a row", make_int4_rows, needs_multiple_of<2>},
      {"int2", "min-max a row, 2 bits and 4 bytes a row", make_int2_rows, needs_multiple_of<4>},
      {"q8_0", "llama.cpp's blocks of 32, 8.5 bits", make_q8_0_rows, needs_multiple_of<32>},
      {"q4_0", "llama.cpp's blocks of 32, 4.5 bits", make_q4_0_rows, needs_multiple_of<32>},
      {"hadamard_int8", "int8 after a Hadamard transform",
       [] { return make_hadamard_rows(make_int8_rows()); }, needs_multiple_of<1>},
      {"hadamard_int4", "int4 after a Hadamard transform",
       [] { return make_hadamard_rows(make_int4_rows()); }, needs_multiple_of<2>},
      {"hadamard_q4_0", "q4_0 after a Hadamard transform",
       [] { return make_hadamard_rows(make_q4_0_rows()); }, needs_multiple_of<32>},
  };
  return kinds;
}

const RowCodecKind& row_codec(const std::string& name) {
  const auto found = std::ranges::find(row_codecs(), name, &RowCodecKind::name);
  if (found != row_codecs().end()) return *found;
  std::vector<std::string> names;
  for (const auto& kind : row_codecs()) names.push_back(kind.name);
  throw Error(ExitCode::kConfig,
              {cat("no codec ", in_quotes(name)), "cache", suggestion(name, names)});
}

}  // namespace kvsmith
