#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "ops/positions.h"

namespace kvsmith {

/// What some queries make of the first `rows` rows; none of these queries sees a later one.
struct AttentionScores {
  at::Tensor logits;   ///< [batch, heads, queries, rows] fp32, scaled; -inf where a row is not seen
  at::Tensor weights;  ///< their softmax; zeros for a query that sees nothing
  at::Tensor q;        ///< [batch, heads, queries, width], as they meet the keys
  double scale = 1;    ///< of their products with keys
  at::Tensor queries;  ///< [batch|1, queries] int64 positions; -1 marks padding
  at::Tensor last;     ///< [batch|1] int64: position of the last query of the step
  at::Tensor rows;     ///< [batch|1, kv_heads|1, rows] int64 positions
};

/// Is shown the scores of a step, in one part or several with ascending queries. A layer that is
/// watched computes scores explicitly, which no fused kernel does.
class ScoreObserver {
 public:
  virtual ~ScoreObserver() = default;
  virtual void observe(const AttentionScores& scores) = 0;
};

/// Heads between two kinds (DuoAttention, arXiv:2410.10819): what a query head gives is
/// alpha * attention to all visible rows + (1 - alpha) * attention to those of them that a
/// streaming head keeps, its first `sinks` positions and its last `window`.
struct HeadGates {
  at::Tensor alpha;  ///< [kv_heads] fp32; consecutive query heads share one, as they do keys
  int64_t sinks = 0;
  int64_t window = 0;  ///< at least 1, the query's own row included
};

/// Which rows each query may see, as a function of positions alone: a row is seen when it is of the
/// same segment, is not padding, and stands at or before the query.
struct Visibility {
  const Positions& queries;
  const Positions& rows;
  int64_t window = 0;   ///< rows seen, the query's own included; 0: all
  int64_t sinks = 0;    ///< first positions, seen however far back
  bool strict = false;  ///< the query's own row is not seen: it has not been computed yet
  /// What else has to hold: [batch|1, kv_heads|1, queries, rows] bool; undefined: nothing.
  at::Tensor allowed = {};
  ScoreObserver* observer = nullptr;  ///< null: nobody watches
  /// Of the key/value heads, with a gradient where alpha has one; null: none. Only where `window`
  /// is 0. An observer is shown the attention to all visible rows.
  const HeadGates* gates = nullptr;

  /// The queries are the last positions of rows that run from 0 in every sequence alike, and each
  /// sees all rows before its own.
  bool is_suffix() const;
  /// And its own as well.
  bool is_causal_suffix() const { return !strict && is_suffix(); }
  /// [batch|1, kv_heads|1, queries, rows] bool; made once for all layers of a step that ask alike.
  at::Tensor mask() const;
  /// mask() of some of the queries and the first `count` rows, made anew.
  at::Tensor mask_of(const Span& some_queries, int64_t count) const;
};

/// softmax(scale q k^T) v over the visible rows (arXiv:2305.13245 for grouped heads: consecutive
/// query heads share a key/value head); scale 0 stands for 1 / sqrt(width). A query that sees
/// nothing gets zeros. q: [batch, heads, queries, width]; k: [batch, kv_heads, rows, width];
/// v: [batch, kv_heads, rows, value_width], heads a multiple of kv_heads -> [batch, heads, queries,
/// value_width]. Chooses the path; all agree with attention_reference.
at::Tensor attention(const at::Tensor& q,
                     const at::Tensor& k,
                     const at::Tensor& v,
                     const Visibility& visibility,
                     double scale = 0);

/// The same with one more logit per query head in the softmax's denominator, which belongs to no
/// value: a head may attend to nothing (gpt-oss). sinks: [heads].
at::Tensor attention_with_sink_logits(const at::Tensor& q,
                                      const at::Tensor& k,
                                      const at::Tensor& v,
                                      const Visibility& visibility,
                                      const at::Tensor& sinks,
                                      double scale = 0);

/// Softmax over the last dimension of what is not `hidden` (bool, undefined: nothing is), in fp32.
/// Where all is hidden: zeros.
at::Tensor softmax_of_visible(const at::Tensor& scores, const at::Tensor& hidden);

/// The definition: explicit scores in fp32, nothing fused.
at::Tensor attention_reference(const at::Tensor& q,
                               const at::Tensor& k,
                               const at::Tensor& v,
                               const Visibility& visibility,
                               double scale = 0);

}  // namespace kvsmith
