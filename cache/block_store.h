#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cache/row_store.h"

namespace kvsmith {

/// A store in blocks of a few rows, as PagedAttention's (arXiv:2309.06180), with a table of them
/// for every head of every sequence: heads may keep different numbers of rows, growing copies
/// nothing, and clones share blocks until one of them writes. Reading gathers a copy, in which
/// heads are as long as the fullest.
class BlockStore final : public RowStore {
 public:
  BlockStore(int64_t batch, int64_t heads, int64_t block_rows);

  void append(const std::vector<at::Tensor>& fresh, const Positions& positions) override;
  void drop_one(const at::Tensor& victims, const at::Tensor& wanted) override;
  void keep(const at::Tensor& slots) override;
  void truncate(int64_t b, int64_t rows) override;
  void clear() override;
  std::unique_ptr<RowStore> clone() const override { return std::make_unique<BlockStore>(*this); }

  at::Tensor column(size_t index) const override;
  bool copies_on_read() const override { return true; }
  void set_column(size_t index, const at::Tensor& values) override;
  int64_t row_bytes(size_t column) const override;
  /// Of all blocks of the tables and of the tables; blocks that clones share count in each.
  int64_t bytes_reserved() const override;
  /// Of blocks that other clones hold too.
  int64_t bytes_shared() const;
  at::Device device() const override { return empty_->front().device(); }

 private:
  using Block = std::vector<at::Tensor>;  ///< a column each, [block_rows, ...]
  using Table = std::vector<std::shared_ptr<Block>>;

  /// Adds rows, each [n, ...], to one head of one sequence.
  void append_rows(size_t head, const std::vector<at::Tensor>& rows);
  /// To write to: a copy where a clone holds it too.
  Block& own(size_t head, int64_t block);
  /// As many rows as the head counts, and no block more.
  void trim(size_t head);

  int64_t block_rows_;
  std::vector<Table> tables_;     ///< [batch * heads]
  std::shared_ptr<Block> empty_;  ///< zeros, read in the place of blocks that a head lacks
};

}  // namespace kvsmith
