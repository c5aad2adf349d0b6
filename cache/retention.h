#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "configs/cache_config.h"

namespace kvsmith {

/// The layer that a policy serves. Heads are those that keep rows of their own: key/value heads, or
/// one where all share a row (latents).
struct LayerFacts {
  int64_t layer = 0;
  int64_t heads = 1;
  int64_t group = 1;      ///< query heads of each
  int64_t readers = 1;    ///< layers that attend to its rows
  double rope_theta = 0;  ///< of the rotation of its keys
};

/// What queries made of rows, by head; see AttentionScores.
struct HeadScores {
  at::Tensor logits, weights;  ///< [batch, heads, group, queries, rows] fp32
  at::Tensor q;                ///< [batch, heads, group, queries, width]
  double scale = 1;            ///< of products of q and keys
  at::Tensor queries;          ///< [batch|1, queries] int64; -1 marks padding
  at::Tensor last;             ///< [batch|1] int64: the last query of the step
  at::Tensor rows;             ///< [batch|1, heads|1, rows] int64 positions
};

/// The rows that a layer keeps, by slot.
struct KeptRows {
  at::Tensor at;                     ///< [batch, heads, rows] int64 positions; -1: none
  at::Tensor figures;                ///< [batch, heads, rows, figures] fp32; undefined without any
  std::function<at::Tensor()> keys;  ///< [batch, heads, rows, width]: decodes them
};

/// Says which rows of a layer are worth keeping. The framework protects the first and the newest
/// tokens, breaks ties in favour of newer rows, counts and evicts: always after attention, so that
/// a step sees what it adds. What a policy remembers of a row are its figures, which move and go
/// with the row and count as bytes of the cache.
class RetentionPolicy {
 public:
  virtual ~RetentionPolicy() = default;

  /// Numbers kept beside each row.
  virtual int64_t figures() const { return 0; }
  /// Wants to see scores, which are then computed explicitly.
  virtual bool watches() const { return false; }
  /// Figures of new rows, [batch, heads, seq, figures]; undefined: zeros. keys: [batch, heads, seq,
  /// width], or undefined where a layer keeps none.
  virtual at::Tensor initial(const at::Tensor& /*keys*/) const { return {}; }
  /// Adds to `tally`, [batch, heads, rows, figures], zero at the start of each step. Called for
  /// every layer that reads these rows.
  virtual void observe(const HeadScores& /*scores*/, const at::Tensor& /*tally*/) {}
  /// Figures after a step.
  virtual at::Tensor merged(const at::Tensor& figures, const at::Tensor& tally) const;
  /// [batch, heads, rows] fp32: rows of the lowest worth go first.
  virtual at::Tensor worth(const KeptRows& rows) const = 0;
  /// All layers have attended and rows have gone: what was seen of this step may be forgotten.
  virtual void end_step() {}
  /// Bytes of what it keeps besides figures, but for a number or two of a sequence.
  virtual int64_t state_bytes() const { return 0; }
  virtual void clear() {}
  virtual std::unique_ptr<RetentionPolicy> clone() const = 0;
};

/// What the registry knows of a policy.
struct RetentionKind {
  std::string name;  ///< of `retention`
  std::string help;  ///< one line: what it keeps, and the source
  std::unique_ptr<RetentionPolicy> (*make)(const CacheConfig& config, const LayerFacts& facts);
  double recent_share = 0.25;      ///< of the budget, for the newest tokens, where none is given
  bool after_prompt_only = false;  ///< evicts after steps of several tokens, then only appends
  bool draws = false;              ///< depends on `seed`
  /// Compares queries with keys itself, and so needs rows that are turned keys of one head.
  bool reads_queries = false;
  /// Heads differ: by learned gates, some keep every row and others the first and newest.
  bool by_gates = false;
  /// What goes is added to values that stay, left_to_others(), by its first figure.
  bool merges_values = false;
};

/// Every policy. A new one is a file in cache/policies and a line here.
const std::vector<RetentionKind>& retention_kinds();
/// Throws Error (78) with the nearest name.
const RetentionKind& retention_kind(const std::string& name);

/// Scores of the query heads of each head as one: [batch, heads, group, ...] -> [batch, heads,
/// ...]. `how`: CacheConfig::group_reduce.
at::Tensor reduced(const at::Tensor& by_query_head, const std::string& how);

}  // namespace kvsmith
