#pragma once

#include <memory>
#include <vector>

#include <nlohmann/json.hpp>

#include "configs/run_config.h"
#include "data/batches.h"

namespace kvsmith {

/// The corpora of a run, opened.
class Texts {
 public:
  /// Throws Error: 65 and 66 as Corpus::open(), and for a validation split that is shorter than one
  /// sequence; 78 for a corpus of pairs in a run that learns next tokens, or the other way round.
  explicit Texts(const RunConfig& config);

  /// Of the first corpus.
  const CorpusInfo& info() const { return corpora_[0].info(); }
  /// Of all corpora, in order.
  nlohmann::ordered_json fingerprints() const;

  /// What the run learns from. Throws as WindowSource and PairSource.
  std::unique_ptr<const BatchSource> training() const;
  /// What it is validated on, in order and without document mask; null: nothing.
  std::unique_ptr<const BatchSource> validation() const;
  /// Everything that either gives, each split in order, for pairs to be asked about before.
  std::vector<std::unique_ptr<const BatchSource>> pairs() const;

 private:
  RunConfig config_;
  std::vector<Corpus> corpora_;
  std::vector<WeightedSplit> training_;
  std::shared_ptr<const CorpusSplit> validation_;  ///< null: none
};

}  // namespace kvsmith
