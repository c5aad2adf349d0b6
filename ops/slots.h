#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "ops/positions.h"

namespace kvsmith {

/// Attention with a bounded memory: the first `sinks` tokens, the last `window` tokens, and slots
/// that absorb every token between them when it leaves the window. All slots of a key/value head
/// see the absorbed token's unrotated key and its value and decide how much of themselves to keep
/// and how much of the token to take.
struct BoundedShape {
  int64_t window = 0;  ///< tokens, the query's own included
  int64_t sinks = 0;
};

/// A slot keeps at least e^-4, 1.8 %, of itself when it absorbs a token.
constexpr double kLeastLogKeep = -4;

/// Tokens of a text that are read at once: what slots keep of them multiplies to e^-128 at the
/// least, and half of that is finite in fp32 both ways.
constexpr int64_t kSlotChunk = 32;

/// What absorbing a token would do to each slot; fp32, each [batch, kv_heads, rows, slots].
struct SlotWrites {
  at::Tensor log_keep;  ///< logarithm of the share of itself that a slot keeps: kLeastLogKeep to 0
  at::Tensor take;      ///< weight of the token, >= 0
};

/// Slots of a batch; fp32. key and value hold sums that `mass` normalises.
struct Slots {
  at::Tensor key, value;  ///< [batch, kv_heads, slots, head_dim]
  at::Tensor mass;        ///< [batch, kv_heads, slots]; 0: nothing absorbed yet
};

/// Projections of tokens: q [batch, heads, seq, head_dim]; k, v [batch, kv_heads, rows, head_dim].
struct BoundedRows {
  at::Tensor q, k, v;
  at::Tensor rotated_q, rotated_k;  ///< for the exact rows; slots take keys unrotated, since
                                    ///< averaging keys turned by different angles destroys them
};

/// A text from its first token on, in chunks of `chunk` tokens, with autograd. One softmax runs
/// over exact rows and slots; a slot's logit is scale * q . key / mass + log(mass) + bias[slot], so
/// that an empty slot has weight 0. slot_bias: [heads, slots]. -> [batch, heads, seq, head_dim].
/// More than kSlotChunk tokens in a `chunk` are as many.
at::Tensor bounded_attention(const BoundedRows& rows,
                             const SlotWrites& writes,
                             const at::Tensor& slot_bias,
                             const Positions& positions,
                             const BoundedShape& shape,
                             int64_t chunk = kSlotChunk);

/// The slots after that text: what has left the window of each sequence's last token.
Slots absorbed(const BoundedRows& rows,
               const SlotWrites& writes,
               const Positions& positions,
               const BoundedShape& shape);

/// Absorbs one token per sequence in place; k, v: [batch, kv_heads, 1, head_dim]; `wanted`: [batch]
/// bool, false leaves the slots of a sequence alone.
void absorb(Slots& slots,
            const at::Tensor& k,
            const at::Tensor& v,
            const SlotWrites& writes,
            const at::Tensor& wanted);

/// One token per sequence over exact rows and slots. rotated_k, v: [batch, kv_heads, rows,
/// head_dim]; mask: [batch|1, 1, 1, rows] bool. -> [batch, heads, 1, head_dim].
at::Tensor bounded_read(const at::Tensor& q,
                        const at::Tensor& rotated_q,
                        const at::Tensor& rotated_k,
                        const at::Tensor& v,
                        const at::Tensor& mask,
                        const Slots& slots,
                        const at::Tensor& slot_bias);

}  // namespace kvsmith
