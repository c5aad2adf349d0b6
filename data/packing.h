#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/batches.h"

namespace kvsmith {

/// Tokens [first, first + length) of a split, all of one document, read to predict the token after
/// each.
struct Piece {
  uint64_t first = 0;
  int64_t length = 0;
};

/// Documents dealt out to sequences so that few are cut and little is padding: pieces, longest
/// first, each go into the fullest sequence that has room for them (best-fit decreasing,
/// arXiv:2404.10830). A document that is longer than a sequence is cut into pieces of its length.
/// Nothing is left out but the last token of a document, which predicts nothing.
///
/// A pure function of the documents' lengths. Memory: 24 bytes a piece, and about four times that
/// while it is made.
class Packing {
 public:
  /// Sequences of `length` tokens.
  Packing(const CorpusSplit& split, int64_t length);

  uint64_t sequences() const { return begins_.size() - 1; }
  /// What sequence `i` holds, longest first; the rest of it is padding.
  std::span<const Piece> sequence(uint64_t i) const {
    return std::span(pieces_).subspan(begins_[i], begins_[i + 1] - begins_[i]);
  }
  /// Tokens in all sequences together.
  uint64_t tokens() const { return tokens_; }

 private:
  std::vector<Piece> pieces_;     ///< by sequence
  std::vector<uint64_t> begins_;  ///< of each sequence in pieces_, and their end
  uint64_t tokens_ = 0;
};

/// Every split packed into sequences of options.length tokens. From padding, which comes last,
/// nothing is to be learnt, and with a document mask nothing sees it.
class PackedSource final : public BatchSource {
 public:
  /// Throws Error: 65 for a split in which no document has two tokens, 78 for weights that cannot
  /// be.
  PackedSource(std::vector<WeightedSplit> splits, const BatchOptions& options);

  Batch make(uint64_t first, int64_t sequences) const override;
  uint64_t sequences_per_epoch() const override { return mixture_.items(); }
  uint64_t sequences_with(int64_t tokens) const override;
  /// How much is padding.
  std::string remark() const override;

 private:
  /// Mean of a sequence.
  double tokens_per_sequence() const;

  std::vector<WeightedSplit> splits_;
  BatchOptions options_;
  std::vector<Packing> packings_;  ///< of the splits
  Mixture mixture_;                // after what it is made of
};

}  // namespace kvsmith
