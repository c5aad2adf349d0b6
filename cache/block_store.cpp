#include "cache/block_store.h"

#include <algorithm>

#include <torch/types.h>

#include "models/memory.h"

namespace kvsmith {

BlockStore::BlockStore(int64_t batch, int64_t heads, int64_t block_rows)
    : RowStore(batch, heads),
      block_rows_(block_rows),
      tables_(static_cast<size_t>(batch * heads)) {}

BlockStore::Block& BlockStore::own(size_t head, int64_t block) {
  auto& held = tables_[head][static_cast<size_t>(block)];
  if (held.use_count() > 1) held = std::make_shared<Block>(copies(*held));
  return *held;
}

void BlockStore::trim(size_t head) {
  tables_[head].resize(static_cast<size_t>((counts_[head] + block_rows_ - 1) / block_rows_));
}

void BlockStore::append_rows(size_t head, const std::vector<at::Tensor>& rows) {
  auto& count = counts_[head];
  const int64_t end = count + rows[0].size(0);
  for (int64_t done = 0; count < end;) {
    const int64_t offset = count % block_rows_;
    const int64_t some = std::min(end - count, block_rows_ - offset);
    if (offset == 0) tables_[head].push_back(std::make_shared<Block>(copies(*empty_)));
    const Block& block = own(head, count / block_rows_);
    for (size_t i = 0; i < rows.size(); ++i)
      block[i].narrow(0, offset, some).copy_(rows[i].narrow(0, done, some));
    count += some;
    done += some;
  }
}

void BlockStore::append(const std::vector<at::Tensor>& fresh, const Positions& positions) {
  if (!empty_) {
    empty_ = std::make_shared<Block>();
    for (const auto& rows : fresh)
      empty_->push_back(torch::zeros({block_rows_, rows.size(3)}, rows.options()));
  }
  for (int64_t b = 0; b < batch_; ++b) {
    const int64_t added = positions.span(b).count;
    for (int64_t head = 0; added > 0 && head < heads_; ++head) {
      std::vector<at::Tensor> rows;
      for (const auto& column : fresh) rows.push_back(column[b][head].narrow(0, 0, added));
      append_rows(static_cast<size_t>(b * heads_ + head), rows);
    }
  }
}

void BlockStore::drop_one(const at::Tensor& victims, const at::Tensor& wanted) {
  const auto slots = victims.to(torch::kCPU).contiguous();
  const auto dropped = wanted.to(torch::kCPU, torch::kLong).contiguous();
  for (size_t head = 0; head < tables_.size(); ++head) {
    if (dropped.const_data_ptr<int64_t>()[head] == 0) continue;
    const int64_t slot = slots.const_data_ptr<int64_t>()[head], last = --counts_[head];
    if (slot != last) {
      const Block& to = own(head, slot / block_rows_);
      const Block& from = *tables_[head].back();
      for (size_t i = 0; i < to.size(); ++i)
        to[i].select(0, slot % block_rows_).copy_(from[i].select(0, last % block_rows_));
    }
    trim(head);
  }
}

void BlockStore::keep(const at::Tensor& slots) {
  const auto from = slots.to(torch::kCPU).contiguous();
  std::vector<at::Tensor> columns;
  for (size_t i = 0; i < empty_->size(); ++i) columns.push_back(column(i).flatten(0, 1));
  for (size_t head = 0; head < tables_.size(); ++head) {
    const auto chosen = from.flatten(0, 1)[static_cast<int64_t>(head)];
    const auto kept = chosen.narrow(0, 0, chosen.ge(0).sum().item<int64_t>());
    if (kept.equal(torch::arange(counts_[head], kept.options()))) continue;
    std::vector<at::Tensor> rows;
    for (const auto& column : columns)
      rows.push_back(column[static_cast<int64_t>(head)].index_select(0, kept.to(device())));
    counts_[head] = 0;
    tables_[head].clear();
    append_rows(head, rows);
  }
}

void BlockStore::truncate(int64_t b, int64_t rows) {
  for (int64_t head = b * heads_; head < (b + 1) * heads_; ++head) {
    auto& count = counts_[static_cast<size_t>(head)];
    count = std::min(count, rows);
    trim(static_cast<size_t>(head));
  }
}

void BlockStore::clear() {
  std::ranges::fill(counts_, 0);
  for (auto& table : tables_) table.clear();
}

at::Tensor BlockStore::column(size_t index) const {
  const auto blocks = static_cast<size_t>((rows() + block_rows_ - 1) / block_rows_);
  std::vector<at::Tensor> parts;
  parts.reserve(blocks * tables_.size());
  for (const Table& table : tables_)
    for (size_t block = 0; block < blocks; ++block)
      parts.push_back((*(block < table.size() ? table[block] : empty_))[index]);
  const auto length = static_cast<int64_t>(blocks) * block_rows_;
  return torch::cat(parts).view({batch_, heads_, length, -1}).narrow(2, 0, rows());
}

void BlockStore::set_column(size_t index, const at::Tensor& values) {
  const auto by_head = values.flatten(0, 1);
  for (size_t head = 0; head < tables_.size(); ++head) {
    const auto rows = by_head[static_cast<int64_t>(head)];
    for (int64_t first = 0; first < counts_[head]; first += block_rows_) {
      const int64_t some = std::min(counts_[head] - first, block_rows_);
      own(head, first / block_rows_)[index].narrow(0, 0, some).copy_(rows.narrow(0, first, some));
    }
  }
}

int64_t BlockStore::row_bytes(size_t column) const {
  return empty_ ? static_cast<int64_t>((*empty_)[column].nbytes()) / block_rows_ : 0;
}

int64_t BlockStore::bytes_reserved() const {
  if (!empty_) return 0;
  int64_t bytes = bytes_of(*empty_);
  for (const Table& table : tables_)
    bytes += static_cast<int64_t>(table.size()) *
             (bytes_of(*empty_) + static_cast<int64_t>(sizeof(Table::value_type)));
  return bytes;
}

int64_t BlockStore::bytes_shared() const {
  int64_t bytes = 0;
  for (const Table& table : tables_)
    for (const auto& block : table)
      if (block.use_count() > 1) bytes += bytes_of(*block);
  return bytes;
}

}  // namespace kvsmith
