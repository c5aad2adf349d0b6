#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace kvsmith {

/// CaM (ICML 2024, "Cache Merging for Memory-efficient LLMs Inference"): a row that goes may leave
/// its value to the `tokens` kept rows that follow it in the text, an equal part to each; the more
/// attention it has had beside them, the likelier: with probability score / their mean score.
/// at: [batch, heads, rows] int64, -1: none; scores: alike, fp32; goes: alike, bool;
/// gone: [batch, heads, n, width] fp32, values of chosen_slots(goes); keys: [heads] int64, of the
/// draws, which depend on a row's position alone. Returns what is added to each value, [batch,
/// heads, rows, width].
at::Tensor left_to_others(const at::Tensor& at,
                          const at::Tensor& scores,
                          const at::Tensor& goes,
                          const at::Tensor& gone,
                          const at::Tensor& keys,
                          int64_t tokens);

}  // namespace kvsmith
