#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/positions.h"

namespace kvsmith {

/// What one layer keeps about the text so far. Owns its storage.
class Memory {
 public:
  virtual ~Memory() = default;

  /// Bytes that remembered tokens occupy, from the shapes, strides and types of the real tensors.
  virtual int64_t bytes_used() const = 0;
  /// Bytes of all storage held, rows not yet used included.
  virtual int64_t bytes_reserved() const = 0;
  virtual void clear() = 0;
};

/// Rows to attend to: tensors that share the row dimension, and the position of each row.
struct Rows {
  std::vector<at::Tensor> streams;  ///< each [batch, kv_heads, rows, width]
  Positions positions;
};

/// A memory with one row per remembered position, such as keys and values.
class RowMemory : public Memory {
 public:
  /// Remembers `fresh`, each [batch, kv_heads, seq, width], at `positions`; what was remembered at
  /// or after the first of them is replaced. Returns everything there is to see now.
  virtual Rows write(const Positions& positions, std::vector<at::Tensor> fresh) = 0;
};

/// Holds one write only and keeps its autograd graph: the memory of a training step.
class TransientRows final : public RowMemory {
 public:
  Rows write(const Positions& positions, std::vector<at::Tensor> fresh) override;
  int64_t bytes_used() const override { return bytes_reserved(); }
  int64_t bytes_reserved() const override;
  void clear() override { streams_.clear(); }

 private:
  std::vector<at::Tensor> streams_;
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

  Rows write(const Positions& positions, std::vector<at::Tensor> fresh) override;
  int64_t bytes_used() const override;
  int64_t bytes_reserved() const override;
  void clear() override;

 private:
  void reserve(int64_t rows, const std::vector<at::Tensor>& like);

  CacheOptions options_;
  int64_t capacity_ = 0;
  std::vector<int64_t> lengths_;     ///< rows remembered per sequence
  std::vector<at::Tensor> storage_;  ///< each [batch, kv_heads, capacity, width]
};

/// The memories of a whole model for a batch of sequences: one per layer that owns one.
class KvCache {
 public:
  explicit KvCache(std::vector<std::unique_ptr<Memory>> layers) : layers_(std::move(layers)) {}

  Memory& of(int64_t layer) { return *layers_.at(static_cast<size_t>(layer)); }
  int64_t bytes_used() const;
  int64_t bytes_reserved() const;
  void clear();

 private:
  std::vector<std::unique_ptr<Memory>> layers_;
};

}  // namespace kvsmith
