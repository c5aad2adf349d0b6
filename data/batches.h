#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/corpus.h"
#include "data/mixture.h"

namespace kvsmith {

/// Sequences for one training step; row-major [sequences, length].
struct Batch {
  int64_t sequences = 0, length = 0;
  std::vector<int64_t> tokens = {};
  std::vector<int64_t> targets = {};    ///< the next token; -1 where it is not to be learnt
  std::vector<int64_t> positions = {};  ///< of each token in its document piece; 0.. when unmasked
  std::vector<int32_t> segments = {};   ///< which document piece of the sequence a token belongs to
  bool has_borders = false;             ///< some sequence holds more than one segment
  int64_t target_count = 0;             ///< targets that are not -1
  int64_t token_count = 0;              ///< tokens that are not padding
};

/// A corpus and how often it is drawn from.
struct WeightedSplit {
  std::shared_ptr<const CorpusSplit> split;
  double weight = 1;
};

struct BatchOptions {
  int64_t length = 128;        ///< tokens a sequence; of pairs the most
  bool document_mask = false;  ///< reset positions at documents, let no token see another document
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

/// The endless, shuffled sequences that batches are made of: a pure function of (seed, position),
/// so that sequence i is had without any before it.
class BatchSource {
 public:
  virtual ~BatchSource() = default;

  /// Sequences [first, first + sequences).
  virtual Batch make(uint64_t first, int64_t sequences) const = 0;
  /// Sequences in one epoch over all splits.
  virtual uint64_t sequences_per_epoch() const = 0;
  /// How many of the first sequences of an epoch hold `tokens` tokens together (0: all of them).
  virtual uint64_t sequences_with(int64_t tokens) const = 0;
  /// For the log: what is left out of the splits, or added; empty: nothing.
  virtual std::string remark() const { return ""; }
};

/// Sequences of splits with so many each, drawn by the weights of the splits.
Mixture mixture_of(const std::vector<WeightedSplit>& splits,
                   std::vector<uint64_t> items,
                   const BatchOptions& options);

/// Every split cut into non-overlapping windows of options.length tokens.
class WindowSource final : public BatchSource {
 public:
  /// Throws Error (65) when a split is shorter than one sequence, 78 for options or weights that
  /// cannot be.
  WindowSource(std::vector<WeightedSplit> splits, const BatchOptions& options);

  Batch make(uint64_t first, int64_t sequences) const override;
  uint64_t sequences_per_epoch() const override { return mixture_.items(); }
  uint64_t sequences_with(int64_t tokens) const override;

 private:
  std::vector<WeightedSplit> splits_;
  BatchOptions options_;
  Mixture mixture_;
};

/// An endless stream of the batches of a source. Resuming is O(1) and needs one number. A thread
/// reads ahead.
class BatchStream {
 public:
  /// Batches of so many sequences.
  BatchStream(std::unique_ptr<const BatchSource> source, int64_t sequences);
  /// Of windows; throws as WindowSource.
  BatchStream(std::vector<WeightedSplit> splits,
              const BatchOptions& options,
              int64_t sequences = 1);
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

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvsmith
