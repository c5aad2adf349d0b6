#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/batches.h"

namespace kvsmith {

/// Pairs of answers from corpora that hold them. Sequences 2i and 2i + 1 are a prompt with the
/// chosen and with the rejected answer, each up to its last token to be learnt; a batch is padded
/// at the end to its longest, where there are no targets. Each epoch visits every pair once.
class PairSource final : public BatchSource {
 public:
  /// Leaves out pairs of which a sequence is longer than options.length + 1 tokens. Throws Error:
  /// 65 when none is left of a split, 78 for weights that cannot be.
  PairSource(std::vector<WeightedSplit> splits, const BatchOptions& options);

  /// Both numbers are even.
  Batch make(uint64_t first, int64_t sequences) const override;
  uint64_t sequences_per_epoch() const override { return 2 * mixture_.items(); }
  uint64_t sequences_with(int64_t tokens) const override;
  std::string remark() const override;

 private:
  /// Fills fitting_; how many pairs of each split there are.
  std::vector<uint64_t> find_fitting();

  std::vector<WeightedSplit> splits_;
  std::vector<std::vector<uint64_t>> fitting_;  ///< pairs of each split
  uint64_t length_;                             ///< tokens a sequence at most
  uint64_t pairs_ = 0;                          ///< of all splits
  Mixture mixture_;                             // after what it is made of
};

}  // namespace kvsmith
