#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cache/layer_plan.h"
#include "cache/replay.h"
#include "cache/row_store.h"
#include "models/memory.h"

namespace kvsmith {

/// The memory of a layer under a LayerPlan: rows are encoded as they come, and once all layers that
/// read them have attended, those that a policy finds least worth keeping are dropped, storage and
/// all.
class ManagedRows final : public RowMemory, private ScoreObserver {
 public:
  /// `log`, where given, is told what is kept after every step.
  ManagedRows(std::shared_ptr<const LayerPlan> plan,
              const CacheOptions& options,
              std::shared_ptr<ReplayLog> log = nullptr);

  Rows read() const override;
  /// Throws 70 where a policy has dropped rows: they cannot come back.
  void rewind(const Positions& positions) override;
  Rows write(const Positions& positions, std::vector<at::Tensor> fresh) override;
  std::vector<at::Tensor> as_stored(const Positions& positions,
                                    std::vector<at::Tensor> fresh) const override;
  void settle() override;
  int64_t bytes_used() const override;
  int64_t bytes_reserved() const override;
  ByteLedger ledger() const override;
  void clear() override;
  std::unique_ptr<Memory> clone() const override;

  /// [batch, heads, rows] int64 positions of what is kept, in no order; -1: none.
  at::Tensor kept() const;

 private:
  void observe(const AttentionScores& scores) override;
  bool has_dropped(int64_t b) const;
  bool has_dropped() const;
  /// New rows are shown behind the longest sequence before each is appended to its own.
  void note_counts();
  /// Sequences that lose rows after this step, [batch, 1, 1] bool; undefined: all.
  at::Tensor losing() const;
  bool evicts_now() const;
  bool is_watched() const { return policy_ && policy_->watches() && evicts_now(); }
  std::vector<at::Tensor> encoded(const Positions& positions,
                                  const std::vector<at::Tensor>& fresh) const;
  bool is_stored_unturned(const StreamShape& shape) const {
    return shape.is_turned && plan_->positions == RowPositions::kInCacheRaw;
  }
  /// Rows without their rotation, where they are stored so.
  at::Tensor unturned(const StreamShape& shape,
                      const Positions& positions,
                      const at::Tensor& rows) const;
  /// `stored`: what the store holds of the stream.
  at::Tensor decoded(size_t stream, const at::Tensor& stored) const;
  Positions positions() const;
  /// Where kept rows stand for a query that counts rows instead of tokens, less their place in the
  /// text.
  Positions shifts() const;
  KeptRows view() const;
  void record() const;
  at::Tensor protected_worth() const;
  /// goes: [batch, heads, rows] bool.
  void merge_values(const at::Tensor& goes);
  /// Drops rows above the budget, protected ones not among them. `makes_room`: so many more that
  /// those of this step will fit.
  void evict(bool makes_room);
  /// Rows that each head may keep, [batch * heads]; of heads that share, on average.
  std::vector<int64_t> limits(bool makes_room) const;
  /// limits: [batch, heads, 1] int64.
  void evict_one(const at::Tensor& worth, const at::Tensor& limits);
  void evict_many(const at::Tensor& worth, const at::Tensor& limits);
  size_t index_column() const { return plan_->streams.size(); }
  size_t figure_column() const { return plan_->streams.size() + 1; }

  std::shared_ptr<const LayerPlan> plan_;
  CacheOptions options_;
  std::shared_ptr<ReplayLog> log_;
  std::unique_ptr<RetentionPolicy> policy_;
  std::unique_ptr<RowStore> store_;
  std::vector<int64_t> lengths_;  ///< tokens seen by each sequence
  at::Tensor tally_;              ///< of this step; undefined: nothing observed
  /// Rows of each head when new ones were observed before they were written; else empty.
  std::vector<int64_t> counts_before_;
  std::vector<int64_t> step_tokens_;  ///< of each sequence in this step
  size_t stream_slots_ = 0;           ///< streams of the mixer, those that nobody reads included
  at::ScalarType type_ = at::kFloat;
  mutable int64_t copied_ = 0;          ///< bytes of decoded copies of this step
  mutable int64_t transient_peak_ = 0;  ///< most of them, and of rows that were given back
};

}  // namespace kvsmith
