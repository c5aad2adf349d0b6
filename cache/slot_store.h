#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "models/memory.h"

namespace kvsmith {

/// Slots of rows for every head of every sequence, in columns that move together: what is stored
/// of each row, its position, figures about it. The first count slots of a head are taken, in no
/// order once rows have been dropped. Nothing is masked: a dropped row is gone, and storage is
/// given back when a store has shrunk.
class SlotStore {
 public:
  /// `growth_rows` are added at a time.
  SlotStore(int64_t batch, int64_t heads, int64_t growth_rows);

  /// Appends rows to each sequence, spans[b].count of them.
  /// fresh: each [batch, heads, seq, ...]; the same columns in every call.
  void append(const std::vector<at::Tensor>& fresh, const Positions& positions);
  /// Drops the row in slot `victims`, [batch, heads] int64, of each head with `wanted`, [batch,
  /// heads] bool; the head's last row takes the slot.
  void drop_one(const at::Tensor& victims, const at::Tensor& wanted);
  /// Adds to each head the first of its rows, as many as `counts`, [batch, heads] int64, says.
  /// rows: each [batch, heads, n, ...].
  void append_some(const std::vector<at::Tensor>& rows, const at::Tensor& counts);
  /// Puts one row, each [batch, heads, 1, ...], into `slots`, [batch, heads] int64, of the heads
  /// that are wanted; -1: behind the others.
  void put(const at::Tensor& slots, const std::vector<at::Tensor>& row, const at::Tensor& wanted);
  /// Keeps of each head the rows in `slots`, [batch, heads, n] int64, up to the first -1, in this
  /// order.
  void keep(const at::Tensor& slots);
  /// Forgets the rows behind the first `rows` of sequence `b`.
  void truncate(int64_t b, int64_t rows);
  void clear();
  SlotStore clone() const;

  /// The first rows() slots of a column: a view, [batch, heads, rows, ...].
  at::Tensor column(size_t index) const;
  /// Replaces the first rows() slots of a column.
  void set_column(size_t index, const at::Tensor& values);
  /// [batch, heads, rows] bool: the slot holds a row; undefined where all do.
  at::Tensor taken() const;

  bool empty() const { return rows() == 0; }
  int64_t rows() const;  ///< of the fullest head
  int64_t count(int64_t b, int64_t head) const;
  int64_t total() const;  ///< rows of all heads of all sequences
  int64_t heads() const { return heads_; }
  int64_t row_bytes(size_t column) const;  ///< of one head
  int64_t bytes_used() const;
  int64_t bytes_reserved() const { return bytes_of(columns_); }

 private:
  void reserve(int64_t rows, const std::vector<at::Tensor>& like);
  /// Gives back what was allocated for many more rows.
  void shrink();
  bool is_even() const;

  int64_t batch_, heads_, growth_rows_, capacity_ = 0;
  std::vector<int64_t> counts_;      ///< [batch * heads]
  std::vector<at::Tensor> columns_;  ///< each [batch, heads, capacity, ...]
};

/// [batch, heads, seq, bytes] as the rows of `kept_heads`: itself, or of all heads one row.
at::Tensor folded(const at::Tensor& rows, int64_t kept_heads);
/// The way back.
at::Tensor unfolded(const at::Tensor& rows, int64_t heads);

/// [batch, heads, rows] int64 positions in a column of them; -1 where a slot holds nothing.
at::Tensor positions_in(const SlotStore& store, size_t column);

/// [batch, heads, rows] bool -> the slots that are chosen, in ascending order, then -1; as many as
/// the fullest head has.
at::Tensor chosen_slots(const at::Tensor& chosen);

}  // namespace kvsmith
