#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/positions.h"

namespace kvsmith {

/// Rows of every head of every sequence, in columns that move together: what is stored of each
/// row, its position, figures about it. The first count slots of a head are taken, in no order once
/// rows have been dropped. Nothing is masked: a dropped row is gone, and so is its storage.
class RowStore {
 public:
  RowStore(int64_t batch, int64_t heads);
  virtual ~RowStore() = default;

  /// Appends rows to each sequence, spans[b].count of them.
  /// fresh: each [batch, heads, seq, ...]; the same columns in every call.
  virtual void append(const std::vector<at::Tensor>& fresh, const Positions& positions) = 0;
  /// Drops the row in slot `victims`, [batch, heads] int64, of each head with `wanted`, [batch,
  /// heads] bool; the head's last row takes the slot.
  virtual void drop_one(const at::Tensor& victims, const at::Tensor& wanted) = 0;
  /// Keeps of each head the rows in `slots`, [batch, heads, n] int64, up to the first -1, in this
  /// order.
  virtual void keep(const at::Tensor& slots) = 0;
  /// Drops the rows in the slots that `goes`, [batch, heads, rows] bool, says.
  void drop(const at::Tensor& goes);
  /// Forgets the rows behind the first `rows` of sequence `b`.
  virtual void truncate(int64_t b, int64_t rows) = 0;
  virtual void clear() = 0;
  virtual std::unique_ptr<RowStore> clone() const = 0;

  /// The first rows() slots of a column, [batch, heads, rows, ...]; slots that hold nothing are
  /// zeros or what was there. A view, or a copy where copies_on_read().
  virtual at::Tensor column(size_t index) const = 0;
  virtual bool copies_on_read() const = 0;
  /// Replaces the first rows() slots of a column.
  virtual void set_column(size_t index, const at::Tensor& values) = 0;
  /// [batch, heads, rows] bool: the slot holds a row; undefined where all do.
  at::Tensor taken() const;

  bool empty() const { return rows() == 0; }
  int64_t rows() const;  ///< of the fullest head
  int64_t count(int64_t b, int64_t head) const {
    return counts_[static_cast<size_t>(b * heads_ + head)];
  }
  int64_t total() const;  ///< rows of all heads of all sequences
  int64_t batch() const { return batch_; }
  int64_t heads() const { return heads_; }
  virtual int64_t row_bytes(size_t column) const = 0;  ///< of one head
  virtual int64_t bytes_reserved() const = 0;
  virtual at::Device device() const = 0;  ///< once rows have been appended

 protected:
  bool is_even() const;  ///< every head has as many rows

  int64_t batch_, heads_;
  std::vector<int64_t> counts_;  ///< [batch * heads]
};

/// [batch, heads, seq, bytes] as the rows of `kept_heads`: itself, or of all heads one row.
at::Tensor folded(const at::Tensor& rows, int64_t kept_heads);
/// The way back.
at::Tensor unfolded(const at::Tensor& rows, int64_t heads);

/// [batch, heads, rows] int64 positions in a column of them; -1 where a slot holds nothing.
at::Tensor positions_in(const RowStore& store, size_t column);

/// [batch, heads, rows] bool -> the slots that are chosen, in ascending order, then -1; as many as
/// the fullest head has.
at::Tensor chosen_slots(const at::Tensor& chosen);

/// Figures of rows as they were shown to attention, [batch, heads, columns, n], by slot: [batch,
/// heads, rows, n]. New rows were shown behind the longest sequence, and each was then appended to
/// its own, which had `before` rows, [batch * heads]; empty: they were shown as they lie, and slots
/// behind them have zeros.
at::Tensor by_slot(const at::Tensor& shown, const std::vector<int64_t>& before, int64_t rows);

}  // namespace kvsmith
