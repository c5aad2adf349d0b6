#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/packing.h"

namespace kvsmith {

/// Sequences of equal length for one training step; row-major [sequences, length].
struct Batch {
  int64_t sequences = 0, length = 0;
  std::vector<int64_t> tokens;
  std::vector<int64_t> targets;    ///< the next token; -1 where it is not to be learnt
  std::vector<int64_t> positions;  ///< of each token in its document piece; 0.. when unmasked
  std::vector<int32_t> segments;   ///< which document piece of the sequence a token belongs to
  bool has_borders = false;        ///< some sequence holds more than one segment
  int64_t target_count = 0;        ///< targets that are not -1
};

/// A corpus and how often it is drawn from.
struct WeightedSplit {
  std::shared_ptr<const CorpusSplit> split;
  double weight = 1;
};

struct BatchOptions {
  int64_t sequences = 1;
  int64_t length = 128;        ///< tokens a sequence
  bool document_mask = false;  ///< reset positions at documents, let no token see another document
  /// Begins documents; -1, and of a split with marks: they are those of its index.
  int32_t bos_id = -1;
  bool packs = false;  ///< sequences are those of a Packing, not windows of the text
  bool shuffle = true;
  uint64_t seed = 0;
};

/// Appends the window of options.length tokens of `split` that begins at token `first`, and what is
/// to be learnt of the tokens that follow each: not what the corpus marks as not learnt, nor, with
/// a document mask, what another document begins with. A window may have nothing to learn.
void append_window(const CorpusSplit& split,
                   uint64_t first,
                   const BatchOptions& options,
                   Batch& batch);

/// Appends a sequence of options.length tokens that holds `pieces` of `split` and then padding,
/// which nothing is to be learnt from and, with a document mask, nothing sees.
void append_pieces(const CorpusSplit& split,
                   std::span<const Piece> pieces,
                   const BatchOptions& options,
                   Batch& batch);

/// An endless, shuffled stream of batches that is a pure function of (seed, position): sequence i
/// of the stream can be computed without any before it, so resuming is O(1) and needs one number.
/// A split is cut into non-overlapping windows of `length` tokens, or packed; each epoch visits
/// every sequence once, in an order given by a keyed permutation (no list in memory). A thread
/// reads ahead.
class BatchStream {
 public:
  /// Throws Error (65) when a split is shorter than one sequence.
  BatchStream(std::vector<WeightedSplit> splits, const BatchOptions& options);
  ~BatchStream();
  BatchStream(const BatchStream&) = delete;
  BatchStream& operator=(const BatchStream&) = delete;

  /// The next batch. An error of the reading thread is thrown here.
  Batch next();
  /// Sequences handed out since the start of the stream.
  uint64_t position() const;
  void seek(uint64_t position);
  /// Sequences in one epoch over all splits.
  uint64_t sequences_per_epoch() const;
  /// Share of them that is padding.
  double padding() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A bijection of [0, size) keyed by (seed, round): a Feistel network with cycle walking.
uint64_t permute(uint64_t index, uint64_t size, uint64_t seed, uint64_t round);

}  // namespace kvsmith
