#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "ops/positions.h"

namespace kvsmith {

struct ShortConv {
  at::Tensor out;   ///< [batch, seq, channels] fp32
  at::Tensor tail;  ///< the last kernel - 1 columns of each text: [batch, kernel - 1, channels]
};

/// Causal convolution of each channel on its own: out_t = sum over d of weight[kernel - 1 - d]
/// x_(t - d), of the same document only. x: [batch, seq, channels]; weight: [channels, kernel];
/// tail: the columns before x, of the type of x, or undefined for zeros.
ShortConv short_conv(const at::Tensor& x,
                     const at::Tensor& weight,
                     const Positions& positions,
                     const at::Tensor& tail = {});

}  // namespace kvsmith
