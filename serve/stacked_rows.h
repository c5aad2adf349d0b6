#pragma once

#include <memory>
#include <vector>

#include "models/memory.h"

namespace kvsmith {

/// The memories of rows that several sequences have of one layer, each of batch 1, as the memory of
/// one batch: every sequence writes, forgets and watches on its own, and what they show is padded
/// to the longest. Lives for one step, of one token for each sequence.
class StackedRows final : public RowMemory, private ScoreObserver {
 public:
  /// places: of the token of each member, [1, 1]. The members outlive this object.
  StackedRows(std::vector<RowMemory*> members, std::shared_ptr<const std::vector<Positions>> places)
      : members_(std::move(members)), places_(std::move(places)) {}

  Rows read() const override;
  void rewind(const Positions& positions) override;
  Rows write(const Positions& positions, std::vector<at::Tensor> fresh) override;
  std::vector<at::Tensor> as_stored(const Positions& positions,
                                    std::vector<at::Tensor> fresh) const override;
  void settle() override;
  int64_t bytes_used() const override;
  int64_t bytes_reserved() const override;
  void clear() override;
  /// Throws 70: it owns nothing.
  std::unique_ptr<Memory> clone() const override;

 private:
  void observe(const AttentionScores& scores) override;
  /// Rows of every member, as those of a batch.
  Rows stacked(std::vector<Rows> parts) const;
  const Positions& place(size_t member) const { return (*places_)[member]; }

  std::vector<RowMemory*> members_;
  std::shared_ptr<const std::vector<Positions>> places_;
  // of what was shown last, for observe()
  mutable std::vector<int64_t> counts_;
  mutable std::vector<ScoreObserver*> observers_;
  mutable int64_t longest_ = 0;
};

}  // namespace kvsmith
