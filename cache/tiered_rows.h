#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cache/layer_plan.h"
#include "cache/slot_store.h"
#include "models/memory.h"

namespace kvsmith {

/// LeanKV, also DiffKV (arXiv:2412.03131): each head keeps rows that matter in finer codes, others
/// in coarser ones, and forgets the rest; how many of each follows from the text. A row matters by
/// its mean attention, the largest among the query heads of its head, in shares of 1 / tokens:
/// below alpha_low of them it goes, below alpha_high it becomes coarse. New rows are fine, and the
/// protected ones stay so. Of a prompt, the last 64 queries decide about all rows; then each token
/// decides about the fine row that matters least. Becoming coarse starts from the fine codes, as
/// published, since nothing else is left of the row.
class TieredRows final : public RowMemory, private ScoreObserver {
 public:
  TieredRows(std::shared_ptr<const LayerPlan> plan, const CacheOptions& options);

  Rows read() const override;
  /// Throws 70 where rows have gone or have become coarse: they cannot come back.
  void rewind(const Positions& positions) override;
  Rows write(const Positions& positions, std::vector<at::Tensor> fresh) override;
  void settle() override;
  int64_t bytes_used() const override;
  int64_t bytes_reserved() const override;
  ByteLedger ledger() const override;
  void clear() override;
  std::unique_ptr<Memory> clone() const override;

  /// Rows of all heads of all sequences.
  int64_t fine_rows() const { return fine_.total(); }
  int64_t coarse_rows() const { return coarse_.total(); }

 private:
  /// Rows of one store as they are judged, each [batch, heads, rows].
  struct Judged {
    at::Tensor at;    ///< int64; -1: none
    at::Tensor mean;  ///< attention of a query, fp32
    at::Tensor open;  ///< bool: there, and not protected
  };

  void observe(const AttentionScores& scores) override;
  at::Tensor decoded(const SlotStore& store, size_t stream, const RowCodec& codec) const;
  Judged judged(const SlotStore& store) const;
  /// 1 / tokens of each sequence, [batch, 1, 1].
  at::Tensor even_share() const;
  /// sequences: [batch, 1, 1] bool, those that are judged.
  void judge_prompt(const at::Tensor& sequences);
  void judge_one(const at::Tensor& sequences);
  /// Columns of the fine store at `slots`, [batch, heads, n], in coarse codes.
  std::vector<at::Tensor> coarsened(const at::Tensor& slots) const;
  void add(ByteLedger& ledger, const SlotStore& store, bool is_fine) const;
  size_t index_column() const { return plan_->streams.size(); }
  size_t score_column() const { return plan_->streams.size() + 1; }

  std::shared_ptr<const LayerPlan> plan_;
  CacheOptions options_;
  SlotStore fine_, coarse_;
  std::vector<int64_t> lengths_;   ///< tokens seen by each sequence
  std::vector<int64_t> observed_;  ///< first query of each sequence whose attention counts
  at::Tensor tally_;               ///< of this step, [batch, heads, rows]; fine rows first
  std::vector<int64_t> step_tokens_;
  size_t stream_slots_ = 0;
  at::ScalarType type_ = at::kFloat;
  mutable int64_t copied_ = 0;          ///< bytes of decoded copies of this step
  mutable int64_t transient_peak_ = 0;  ///< most of them, and of rows that were given back
};

}  // namespace kvsmith
