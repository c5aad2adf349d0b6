#pragma once

#include <ATen/core/Tensor.h>

#include "ops/attention.h"

namespace kvsmith {

/// A query in two parts, each [batch, heads, queries, width].
struct SplitQuery {
  at::Tensor content;  ///< meets what each key/value head remembers
  at::Tensor rotary;   ///< meets the key that all heads share
};

/// Rows from which both keys and values are made.
struct StateRows {
  at::Tensor state;       ///< [batch, state_heads, rows, state_width]; serves heads / state_heads
  at::Tensor shared_key;  ///< [batch, 1, rows, width of SplitQuery::rotary]
};

/// Attention with the key [first dimensions of the state | shared key] and the state itself as the
/// value (grouped tied attention, arXiv:2505.21487). `scale` as in attention(). The content part of
/// the query is at most as wide as the state -> [batch, heads, queries, state_width]. One query
/// reads the rows where they lie; several make the keys first.
at::Tensor tied_attention(const SplitQuery& q,
                          const StateRows& rows,
                          const Visibility& visibility,
                          double scale = 0);

/// Attention to keys and values that `up` makes from latent states (MLA, arXiv:2405.04434; several
/// state heads: GLA, arXiv:2505.21487). up: [heads * (content + value_width), state_width], one
/// head's keys before its values, in any type. Scores are divided by sqrt(content + rotary)
/// -> [batch, heads, queries, value_width]. Takes the form below that needs fewer operations.
at::Tensor latent_attention(const SplitQuery& q,
                            const StateRows& rows,
                            const at::Tensor& up,
                            const Visibility& visibility);

/// Makes every head's keys and values: cheaper per pair of query and row.
at::Tensor latent_attention_expanded(const SplitQuery& q,
                                     const StateRows& rows,
                                     const at::Tensor& up,
                                     const Visibility& visibility);

/// Moves `up` to the queries' side, q (U c) = (q U) c, so that nothing is made per row and head.
at::Tensor latent_attention_absorbed(const SplitQuery& q,
                                     const StateRows& rows,
                                     const at::Tensor& up,
                                     const Visibility& visibility);

}  // namespace kvsmith
