#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "ops/positions.h"

namespace kvsmith {

/// Scans over a text whose state has a fixed size. Each has one form for any number of tokens: a
/// single token is a step of the recurrence, a long text is cut into chunks whose inner parts are
/// matrix products and between which only the state passes. Every exponent that is taken is a sum
/// of log gates, so at most 0: nothing overflows. Heads in dimension 1, time in dimension 2, one
/// floating type throughout (fp32 in models). The backward pass computes the scan again and keeps
/// only its inputs.

/// Where a state does something else than go on. [batch|1, seq] bool, or undefined: nowhere.
struct Breaks {
  at::Tensor starts;   ///< first tokens of documents: what was before is forgotten
  at::Tensor padding;  ///< no tokens at all: the state stays as it is

  static Breaks of(const Positions& positions);
};

struct Scan {
  at::Tensor out;    ///< [batch, heads, seq, value_width]
  at::Tensor state;  ///< after the last token: [batch, state_heads, key_width, value_width]
};

constexpr int64_t kScanChunk = 64;  ///< tokens; a power of two

/// Log gates, at most 0, of the two sides of a state matrix; undefined where it has none. Width 1
/// stands for all of a side.
struct LogGates {
  at::Tensor keys;    ///< [batch, state_heads, seq, key_width]
  at::Tensor values;  ///< [batch, state_heads, seq, value_width]
};

/// Gated linear attention (arXiv:2312.06635 section 4):
///   S_t = Diag(e^keys_t) S_(t-1) Diag(e^values_t) + k_t^T v_t,  out_t = q_t S_t.
/// q: [batch, heads, seq, key_width], heads a multiple of state_heads: consecutive ones share a
/// state; k: [batch, state_heads, seq, key_width]; v: [batch, state_heads, seq, value_width];
/// initial: the state before, or undefined.
Scan gated_linear_attention(const at::Tensor& q,
                            const at::Tensor& k,
                            const at::Tensor& v,
                            const LogGates& gates,
                            const Breaks& breaks,
                            const at::Tensor& initial = {},
                            int64_t chunk = kScanChunk);

/// The gated delta rule (arXiv:2412.06464 section 3):
///   S_t = e^g_t S_(t-1),  S_t += k_t^T beta_t (v_t - k_t S_t),  out_t = q_t S_t.
/// Stable for beta |k|^2 <= 2. q, k: [batch, heads, seq, key_width]; v: [batch, heads, seq,
/// value_width]; log_gate, beta: [batch, heads, seq].
Scan gated_delta_rule(const at::Tensor& q,
                      const at::Tensor& k,
                      const at::Tensor& v,
                      const at::Tensor& log_gate,
                      const at::Tensor& beta,
                      const Breaks& breaks,
                      const at::Tensor& initial = {},
                      int64_t chunk = kScanChunk);

struct SlotScan {
  at::Tensor out;           ///< [batch, heads, seq, width]
  at::Tensor keys, values;  ///< [batch, state_heads, width, slots], [.., slots, width]
};

/// Attention to slots that every token is written to (arXiv:2409.07146 section 3.2):
///   K_t = Diag(e^gate_t) K_(t-1) + write_t^T k_t,  V_t alike,  out_t = softmax(q_t K_t^T) V_t.
/// Two passes of gated linear attention joined by a softmax. log_gate, write: [batch, state_heads,
/// seq, slots]; `keys` and `values` are those slots before the first token, or undefined.
SlotScan slot_attention(const at::Tensor& q,
                        const at::Tensor& k,
                        const at::Tensor& v,
                        const at::Tensor& log_gate,
                        const at::Tensor& write,
                        const Breaks& breaks,
                        const at::Tensor& keys = {},
                        const at::Tensor& values = {},
                        int64_t chunk = kScanChunk);

/// Write weights whose sum so far is 1 for each slot, as ABC has them (arXiv:2110.02488).
struct RunningWeights {
  at::Tensor log_gate;  ///< log of what is left of earlier tokens: [batch, heads, seq, slots]
  at::Tensor write;     ///< e^logit / sum of e^logit so far: same shape
  at::Tensor log_sum;   ///< after the last token: [batch, heads, slots]
};

/// logits: [batch, heads, seq, slots]; log_sum: that of the tokens before, or undefined.
RunningWeights running_weights(const at::Tensor& logits,
                               const Breaks& breaks,
                               const at::Tensor& log_sum = {});

}  // namespace kvsmith
