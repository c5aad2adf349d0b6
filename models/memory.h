#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/attention.h"
#include "ops/positions.h"

namespace kvsmith {

/// Tensors with storage of their own; what is undefined stays so.
std::vector<at::Tensor> copies(const std::vector<at::Tensor>& storage);
/// Bytes of all storage, the unused rows of it included.
int64_t bytes_of(const std::vector<at::Tensor>& storage);

/// What a memory costs, in bytes.
struct ByteLedger {
  int64_t payload = 0;         ///< what is remembered of tokens
  int64_t codec_metadata = 0;  ///< scales and zero points
  int64_t index = 0;           ///< positions of rows
  int64_t policy_state = 0;    ///< scores and what else decides who stays
  int64_t reserved = 0;        ///< all storage, rows not yet used included
  int64_t transient_peak = 0;  ///< most made for one step and freed after it, such as decoded rows

  int64_t resident() const { return payload + codec_metadata + index + policy_state; }
  ByteLedger& operator+=(const ByteLedger& other);
  bool operator==(const ByteLedger&) const = default;
};

class KvCache;

/// What one layer keeps about the text so far. Owns its storage.
class Memory {
 public:
  virtual ~Memory() = default;

  /// Bytes that remembered tokens occupy, from the shapes, strides and types of the real tensors.
  virtual int64_t bytes_used() const = 0;
  /// Bytes of all storage held, rows not yet used included.
  virtual int64_t bytes_reserved() const = 0;
  /// The same by purpose; resident() is bytes_used().
  virtual ByteLedger ledger() const;
  /// Bytes that the attention of one layer reads for a token.
  virtual int64_t bytes_read() const {
    const ByteLedger all = ledger();
    return all.payload + all.codec_metadata + all.index;
  }
  virtual void clear() = 0;
  /// Finds the memories of other layers that it works with: called when all of a cache exist.
  virtual void attach(KvCache& /*cache*/) {}
  /// A copy with storage of its own, to save a state or to continue one text in several ways.
  virtual std::unique_ptr<Memory> clone() const = 0;
  /// The same where all after the first `tokens` tokens is to be forgotten: that, and its storage,
  /// may be missing already.
  virtual std::unique_ptr<Memory> clone_start(int64_t /*tokens*/) const { return clone(); }
};

/// Rows to attend to: tensors that share the row dimension, and the position of each row. A stream
/// that nobody reads is undefined. No streams: nothing remembered.
struct Rows {
  std::vector<at::Tensor> streams;  ///< each [batch, kv_heads, rows, width]
  Positions positions = Positions::range(0, 0);
  at::Tensor allowed = {};            ///< as in Visibility; for the tokens of this step
  ScoreObserver* observer = nullptr;  ///< wants to see how these rows are attended to
  const HeadGates* gates = nullptr;   ///< as in Visibility; outlives the step and its gradient

  bool empty() const { return streams.empty(); }
  /// How tokens at `queries` see these rows.
  Visibility seen_from(const Positions& queries, bool strict = false) const {
    return {.queries = queries,
            .rows = positions,
            .strict = strict,
            .allowed = allowed,
            .observer = observer,
            .gates = gates};
  }
};

/// The rows of `past` followed by `fresh` at `positions`.
Rows joined(const Rows& past, const Positions& positions, const std::vector<at::Tensor>& fresh);

/// `own` with the heads that it lacks put in their places from `below`, whose streams are
/// [batch, kv_heads, rows, width]. `reused` names them for each stream, ascending. A stream whose
/// heads are all reused is that of `below` itself; `own` is empty where that is so of all.
Rows with_heads(const Rows& own,
                const Rows& below,
                const std::vector<std::vector<int64_t>>& reused);

/// A memory with one row per remembered position, such as keys and values.
class RowMemory : public Memory {
 public:
  /// Everything remembered.
  virtual Rows read() const = 0;
  /// Forgets what was remembered at or after the first of `positions`, in each sequence that has
  /// any.
  virtual void rewind(const Positions& positions) = 0;
  /// Rewinds, then remembers `fresh`, each [batch, kv_heads, seq, width] or undefined, at
  /// `positions`. Returns everything that these tokens may see: what they push out of a bounded
  /// memory included.
  virtual Rows write(const Positions& positions, std::vector<at::Tensor> fresh) = 0;
  /// What later tokens will read of `fresh`, before it is written: layers that read ahead show it
  /// to the tokens of this step.
  virtual std::vector<at::Tensor> as_stored(const Positions& /*positions*/,
                                            std::vector<at::Tensor> fresh) const {
    return fresh;
  }
  /// Every layer that reads these rows has done so in this step: some may be forgotten.
  virtual void settle() {}
};

/// Holds one write only and keeps its autograd graph: the memory of a training step.
class TransientRows final : public RowMemory {
 public:
  /// `gates`: those of its rows.
  explicit TransientRows(const HeadGates* gates = nullptr) : rows_{.streams = {}, .gates = gates} {}

  Rows read() const override { return rows_; }
  void rewind(const Positions& /*positions*/) override { clear(); }
  Rows write(const Positions& positions, std::vector<at::Tensor> fresh) override;
  int64_t bytes_used() const override { return bytes_reserved(); }
  int64_t bytes_reserved() const override;
  void clear() override { rows_ = {.streams = {}, .gates = rows_.gates}; }
  std::unique_ptr<Memory> clone() const override;

 private:
  Rows rows_;
};

/// How a cache is allocated.
struct CacheOptions {
  int64_t batch = 1;          ///< sequences
  int64_t initial_rows = 0;   ///< rows allocated ahead; more are added as needed
  int64_t growth_rows = 256;  ///< rows added at a time
};

/// Every position from 0 on, in storage that is allocated ahead and grows by chunks. Sequences of
/// a batch may have different lengths. The memory of full-attention layers in generation.
class CachedRows final : public RowMemory {
 public:
  explicit CachedRows(const CacheOptions& options)
      : options_(options), lengths_(options.batch, 0) {}

  Rows read() const override;
  void rewind(const Positions& positions) override;
  Rows write(const Positions& positions, std::vector<at::Tensor> fresh) override;
  int64_t bytes_used() const override;
  int64_t bytes_reserved() const override;
  void clear() override;
  std::unique_ptr<Memory> clone() const override;
  std::unique_ptr<Memory> clone_start(int64_t tokens) const override;

 private:
  void reserve(int64_t rows, const std::vector<at::Tensor>& like);

  CacheOptions options_;
  int64_t capacity_ = 0;
  std::vector<int64_t> lengths_;     ///< rows remembered per sequence
  std::vector<at::Tensor> storage_;  ///< each [batch, kv_heads, capacity, width], or undefined
};

/// The first `sinks` positions and the last `window`: storage that never grows beyond them. A
/// position p past the sinks lies in slot sinks + (p - sinks) % window, so a newer one overwrites
/// it in place. The memory of sliding-window layers in generation.
class RingRows final : public RowMemory {
 public:
  RingRows(const CacheOptions& options, int64_t window, int64_t sinks);

  Rows read() const override;
  /// Throws 70 once something has been overwritten: it cannot come back.
  void rewind(const Positions& positions) override;
  Rows write(const Positions& positions, std::vector<at::Tensor> fresh) override;
  int64_t bytes_used() const override;
  int64_t bytes_reserved() const override;
  void clear() override;
  std::unique_ptr<Memory> clone() const override;
  /// With no storage ahead of what it holds.
  RingRows copy() const;

  /// What the next token of each sequence will overwrite.
  struct Displaced {
    std::vector<at::Tensor> streams;  ///< each [batch, kv_heads, 1, width]
    at::Tensor wanted;                ///< [batch] bool: false where nothing is overwritten
  };
  /// `positions` holds at most one token a sequence.
  Displaced displaced(const Positions& positions) const;

 private:
  int64_t capacity() const { return sinks_ + window_; }
  int64_t rows_of(int64_t length) const { return std::min(length, capacity()); }
  int64_t slot_of(int64_t position) const {
    return position < capacity() ? position : sinks_ + (position - sinks_) % window_;
  }
  void reserve(int64_t rows, const std::vector<at::Tensor>& like);

  CacheOptions options_;
  int64_t window_, sinks_, allocated_ = 0;
  std::vector<int64_t> lengths_;     ///< positions seen per sequence
  std::vector<at::Tensor> storage_;  ///< each [batch, kv_heads, allocated, width], or undefined
};

/// The memories of a whole model for a batch of sequences: one per layer that owns one.
class KvCache {
 public:
  explicit KvCache(std::vector<std::unique_ptr<Memory>> layers) : layers_(std::move(layers)) {}

  /// Only of a layer that owns a memory.
  Memory& of(int64_t layer) { return *layers_.at(static_cast<size_t>(layer)); }
  RowMemory& rows_of(int64_t layer) { return dynamic_cast<RowMemory&>(of(layer)); }
  /// Whether the layer owns a memory with a row for each remembered position.
  bool has_rows(int64_t layer) const;
  /// Gives a layer that owns a memory another one; attach() once all are given.
  void replace(int64_t layer, std::unique_ptr<Memory> memory);
  void attach();
  /// Of all layers.
  ByteLedger ledger() const;
  int64_t bytes_used() const;
  int64_t bytes_reserved() const;
  void clear();
  /// Forgets everything from position `tokens` on. Only where every layer that owns a memory has
  /// rows.
  void rewind(int64_t tokens);
  /// A cache that continues from the same point on its own.
  KvCache fork() const;
  /// The same from position `tokens` on, in storage for what is before it. Only where every layer
  /// that remembers more has rows, and those can be taken back.
  KvCache fork(int64_t tokens) const;

 private:
  std::vector<std::unique_ptr<Memory>> layers_;
};

}  // namespace kvsmith
