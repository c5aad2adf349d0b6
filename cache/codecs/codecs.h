#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "cache/row_codec.h"
#include "core/text.h"

namespace kvsmith {

/// Rows as they are, in fp32, bf16 or fp16: exact where rows have that type. Decoding to it is a
/// view. From a wider type, fp16 makes infinities of magnitudes from 65,520 on.
std::shared_ptr<const RowCodec> make_fp32_rows();
std::shared_ptr<const RowCodec> make_bf16_rows();
std::shared_ptr<const RowCodec> make_fp16_rows();
/// One byte an element, without a scale (FP8 Formats for Deep Learning, arXiv:2209.05433): four
/// significant bits from 2^-6 on, |error| <= 2^-10 below. Saturates at 448, infinities too; NaN
/// stays NaN.
std::shared_ptr<const RowCodec> make_fp8_e4m3_rows();

/// Asymmetric min-max codes of one token of one head (min_max_codes() has bounds and special
/// values): fp16 scale, fp16 zero, then codes, two a byte in int4 and four in int2. A NaN makes its
/// row NaN.
std::shared_ptr<const RowCodec> make_int8_rows();
std::shared_ptr<const RowCodec> make_int4_rows();
std::shared_ptr<const RowCodec> make_int2_rows();

/// Blocks of 32 elements, each with an fp16 scale d first: Q8_0 and Q4_0 of ggml/src/ggml-common.h
/// in github.com/ggml-org/ggml, to the bit where d is finite there. Here d saturates at 65,504, so
/// infinities decode to finite numbers; a block with a NaN has a d of NaN and decodes to NaN.
/// q8_0: |error| <= |d| / 2; q4_0: up to |d| at the end opposite to the extreme, |d| / 2 elsewhere;
/// both beside the rounding of d.
std::shared_ptr<const RowCodec> make_q8_0_rows();
std::shared_ptr<const RowCodec> make_q4_0_rows();

/// Rows in `inner` after an orthonormal Hadamard transform, which spreads outliers over all
/// elements; block-diagonal, with blocks of the largest power of two that divides the width
/// (QuaRot, arXiv:2404.00456). The sum of squared errors of a row is that of `inner` on the
/// transformed row. Infinities count as 65,504; a NaN makes its block NaN, and what `inner` makes
/// of that.
std::shared_ptr<const RowCodec> make_hadamard_rows(std::shared_ptr<const RowCodec> inner);

/// RowCodecKind::needs of codecs whose rows are made of `step` elements.
template <int64_t step>
std::string needs_multiple_of(int64_t width) {
  return width % step == 0 ? std::string() : cat("a multiple of ", step);
}

}  // namespace kvsmith
