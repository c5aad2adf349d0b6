#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "cache/row_store.h"
#include "models/memory.h"

namespace kvsmith {

/// A store with slots for as many rows in every head as the fullest one has: one tensor a column,
/// read without a copy. It grows by chunks, and gives back what it no longer needs.
class SlotStore final : public RowStore {
 public:
  /// `growth_rows` are added at a time.
  SlotStore(int64_t batch, int64_t heads, int64_t growth_rows);

  void append(const std::vector<at::Tensor>& fresh, const Positions& positions) override;
  void drop_one(const at::Tensor& victims, const at::Tensor& wanted) override;
  /// Adds to each head the first of its rows, as many as `counts`, [batch, heads] int64, says.
  /// rows: each [batch, heads, n, ...].
  void append_some(const std::vector<at::Tensor>& rows, const at::Tensor& counts);
  /// Puts one row, each [batch, heads, 1, ...], into `slots`, [batch, heads] int64, of the heads
  /// that are wanted; -1: behind the others.
  void put(const at::Tensor& slots, const std::vector<at::Tensor>& row, const at::Tensor& wanted);
  void keep(const at::Tensor& slots) override;
  void truncate(int64_t b, int64_t rows) override;
  void clear() override;
  SlotStore copy() const;
  std::unique_ptr<RowStore> clone() const override { return std::make_unique<SlotStore>(copy()); }

  at::Tensor column(size_t index) const override;
  bool copies_on_read() const override { return false; }
  void set_column(size_t index, const at::Tensor& values) override;
  int64_t row_bytes(size_t column) const override;
  int64_t bytes_reserved() const override { return bytes_of(columns_); }
  at::Device device() const override { return columns_[0].device(); }

 private:
  void reserve(int64_t rows, const std::vector<at::Tensor>& like);
  /// Gives back what was allocated for many more rows.
  void shrink();

  int64_t growth_rows_, capacity_ = 0;
  std::vector<at::Tensor> columns_;  ///< each [batch, heads, capacity, ...]
};

}  // namespace kvsmith
