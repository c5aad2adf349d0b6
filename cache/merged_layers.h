#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "cache/layer_plan.h"
#include "cache/slot_store.h"
#include "models/memory.h"

namespace kvsmith {

/// MiniCache (arXiv:2405.14366): the rows of two layers, where alike, as one direction and two
/// lengths. Of unit rows u and w at an angle a, the direction is
///   sin((1 - t) a) / sin(a) u + sin(t a) / sin(a) w,
/// made a unit vector again; each layer reads it at its own row's length. Where keys or values of a
/// head are further apart than merge_angle, both rows of the token stay as they are. That is
/// decided token by token, so that what is kept does not depend on how a text is split into steps;
/// the paper takes a share of a whole prompt. Tokens of a step are seen as computed, and merged
/// once the upper layer has attended.
///
/// The memory of the lower layer, which holds the rows of both.
class MergedLayers final : public RowMemory {
 public:
  MergedLayers(std::shared_ptr<const LayerPlan> plan, const CacheOptions& options);

  Rows read() const override { return read_of(0); }
  /// Throws 70: what is merged cannot be taken back.
  void rewind(const Positions& positions) override;
  Rows write(const Positions& positions, std::vector<at::Tensor> fresh) override {
    return write_of(0, positions, std::move(fresh));
  }
  int64_t bytes_used() const override;
  int64_t bytes_reserved() const override;
  ByteLedger ledger() const override;
  int64_t bytes_read() const override;
  void clear() override;
  std::unique_ptr<Memory> clone() const override;

  /// layer: 0 for the lower, 1 for the upper.
  Rows read_of(size_t layer) const;
  Rows write_of(size_t layer, const Positions& positions, std::vector<at::Tensor> fresh);
  /// Both layers have written and attended.
  void merge();
  /// Rows of all heads of all sequences, each of them one of either layer.
  int64_t merged_rows() const { return merged_.total(); }
  int64_t exact_rows() const { return exact_.total(); }

 private:
  size_t streams() const { return plan_->streams.size(); }
  // columns of merged_: directions, lengths of both layers, positions; of exact_: rows of the lower
  // layer, of the upper one, positions
  size_t length_column(size_t layer, size_t stream) const {
    return (1 + layer) * streams() + stream;
  }
  at::Tensor decoded(size_t layer, size_t stream) const;

  std::shared_ptr<const LayerPlan> plan_;
  CacheOptions options_;
  SlotStore merged_, exact_;
  std::vector<int64_t> lengths_;  ///< tokens seen by each sequence
  std::array<std::vector<at::Tensor>, 2> pending_;
  at::Tensor pending_at_;  ///< [batch, seq] positions; -1: padding
  size_t stream_slots_ = 0;
  at::ScalarType type_ = at::kFloat;
  mutable int64_t transient_peak_ = 0;
};

/// The memory of the upper layer of a pair: a view of MergedLayers, with no bytes of its own.
class UpperLayer final : public RowMemory {
 public:
  explicit UpperLayer(int64_t lower_layer) : lower_layer_(lower_layer) {}

  void attach(KvCache& cache) override {
    lower_ = &dynamic_cast<MergedLayers&>(cache.of(lower_layer_));
  }
  Rows read() const override { return lower_->read_of(1); }
  void rewind(const Positions& positions) override { lower_->rewind(positions); }
  Rows write(const Positions& positions, std::vector<at::Tensor> fresh) override {
    return lower_->write_of(1, positions, std::move(fresh));
  }
  void settle() override { lower_->merge(); }
  int64_t bytes_used() const override { return 0; }
  int64_t bytes_reserved() const override { return 0; }
  int64_t bytes_read() const override { return lower_->bytes_read(); }
  void clear() override {}
  std::unique_ptr<Memory> clone() const override {
    return std::make_unique<UpperLayer>(lower_layer_);
  }

 private:
  int64_t lower_layer_;
  MergedLayers* lower_ = nullptr;
};

}  // namespace kvsmith
