#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/random.h"
#include "data/corpus.h"

namespace kvsmith {

/// Whole numbers one after the other, the same on every machine: draw i is hash_of(seed, purpose,
/// index, i).
class Draws {
 public:
  Draws(uint64_t seed, std::string purpose, uint64_t index)
      : seed_(seed), purpose_(std::move(purpose)), index_(index) {}

  /// A number from 0 to `count` - 1.
  uint64_t below(uint64_t count) { return hash_of(seed_, purpose_, index_, next_++) % count; }

 private:
  uint64_t seed_;
  std::string purpose_;
  uint64_t index_, next_ = 0;
};

/// What generated sequences are made of: symbols, which stand for keys and values, and filler.
class ProbeText {
 public:
  /// Symbols are `symbols`, and filler is any of them. A sequence begins with `bos_id`, if not -1.
  explicit ProbeText(std::vector<int64_t> symbols, int64_t bos_id = -1);
  /// Symbols are the tokens that occur in the first million of a split, so that none is one which
  /// the model has never learnt, and filler is text of the split; control tokens are neither.
  static ProbeText of_corpus(const Corpus& corpus, const std::string& split);

  int64_t bos_id() const { return bos_id_; }
  const std::vector<int64_t>& symbols() const { return symbols_; }
  /// `count` symbols, none of them twice. Throws Error (64) when there are not so many.
  std::vector<int64_t> distinct(Draws& draws, int64_t count) const;
  /// `count` tokens of text from a place that is drawn, those in `avoid` left out. Throws Error
  /// (65) when nothing else occurs.
  std::vector<int64_t> filler(Draws& draws, int64_t count, const std::vector<int64_t>& avoid) const;

 private:
  std::vector<int64_t> symbols_;
  int64_t bos_id_ = -1;
  std::shared_ptr<const CorpusSplit> split_;  ///< null: filler is drawn from the symbols
  std::vector<bool> is_text_;                 ///< of each token id, where there is a split
};

}  // namespace kvsmith
