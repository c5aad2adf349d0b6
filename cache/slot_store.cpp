#include "cache/slot_store.h"

#include <algorithm>

#include <torch/types.h>

namespace kvsmith {
namespace {

/// `index`, [batch, heads, n], for gather() on a column.
at::Tensor index_for(const at::Tensor& index, const at::Tensor& column) {
  auto wide = index.view({index.size(0), index.size(1), index.size(2), 1});
  return wide.expand({-1, -1, -1, column.size(3)});
}

}  // namespace

SlotStore::SlotStore(int64_t batch, int64_t heads, int64_t growth_rows)
    : RowStore(batch, heads), growth_rows_(std::max<int64_t>(1, growth_rows)) {}

void SlotStore::reserve(int64_t rows, const std::vector<at::Tensor>& like) {
  if (rows <= capacity_ && !columns_.empty()) return;
  capacity_ = (rows + growth_rows_ - 1) / growth_rows_ * growth_rows_;
  std::vector<at::Tensor> grown;
  for (size_t i = 0; i < like.size(); ++i) {
    // zeros, not garbage: slots that hold nothing are masked, and 0 * NaN is NaN
    grown.push_back(torch::zeros({batch_, heads_, capacity_, like[i].size(3)}, like[i].options()));
    if (!columns_.empty()) grown[i].narrow(2, 0, columns_[i].size(2)).copy_(columns_[i]);
  }
  columns_ = std::move(grown);
}

void SlotStore::shrink() {
  const int64_t wanted = (rows() + growth_rows_ - 1) / growth_rows_ * growth_rows_;
  if (wanted >= capacity_) return;
  for (auto& column : columns_) column = column.narrow(2, 0, wanted).clone();
  capacity_ = wanted;
}

void SlotStore::append(const std::vector<at::Tensor>& fresh, const Positions& positions) {
  int64_t needed = 0;
  for (int64_t b = 0; b < batch_; ++b)
    for (int64_t head = 0; head < heads_; ++head)
      needed = std::max(needed, count(b, head) + positions.span(b).count);
  reserve(needed, fresh);
  if (positions.is_range() && is_even()) {
    for (size_t i = 0; i < fresh.size(); ++i)
      columns_[i].narrow(2, counts_[0], fresh[i].size(2)).copy_(fresh[i]);
    for (auto& count : counts_) count += positions.seq();
    return;
  }
  for (int64_t b = 0; b < batch_; ++b) {
    const int64_t added = positions.span(b).count;
    for (int64_t head = 0; added > 0 && head < heads_; ++head) {
      auto& count = counts_[static_cast<size_t>(b * heads_ + head)];
      for (size_t i = 0; i < fresh.size(); ++i)
        columns_[i][b][head].narrow(0, count, added).copy_(fresh[i][b][head].narrow(0, 0, added));
      count += added;
    }
  }
}

void SlotStore::append_some(const std::vector<at::Tensor>& rows, const at::Tensor& counts) {
  const auto added = counts.to(torch::kCPU).contiguous();
  const auto* more = added.const_data_ptr<int64_t>();
  int64_t needed = 0;
  for (size_t i = 0; i < counts_.size(); ++i) needed = std::max(needed, counts_[i] + more[i]);
  const auto before = torch::tensor(counts_).view({batch_, heads_}).to(counts.device());
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += more[i];
  reserve(needed, rows);
  const auto n = torch::arange(rows[0].size(2), counts.options());
  const auto chosen = n.lt(counts.unsqueeze(2)).nonzero();
  const auto b = chosen.select(1, 0), head = chosen.select(1, 1), row = chosen.select(1, 2);
  using Index = c10::List<std::optional<at::Tensor>>;
  const auto slot = before.index(Index({b, head})) + row;
  for (size_t i = 0; i < rows.size(); ++i)
    columns_[i].index_put_(Index({b, head, slot}), rows[i].index(Index({b, head, row})));
}

void SlotStore::put(const at::Tensor& slots,
                    const std::vector<at::Tensor>& row,
                    const at::Tensor& wanted) {
  const auto is_new = slots.lt(0).logical_and(wanted);
  const auto added = is_new.to(torch::kCPU, torch::kLong).contiguous();
  const auto* more = added.const_data_ptr<int64_t>();
  const auto counts = torch::tensor(counts_).view({batch_, heads_}).to(slots.device());
  int64_t needed = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    counts_[i] += more[i];
    needed = std::max(needed, counts_[i]);
  }
  reserve(needed, row);
  // heads that want nothing write what they have, or into a free slot
  const auto to = torch::where(slots.lt(0), counts.clamp_max(capacity_ - 1), slots).unsqueeze(2);
  const auto is_wanted = wanted.unsqueeze(2).unsqueeze(3);
  for (size_t i = 0; i < row.size(); ++i) {
    auto& column = columns_[i];
    const auto index = index_for(to, column);
    column.scatter_(2, index, torch::where(is_wanted, row[i], column.gather(2, index)));
  }
}

void SlotStore::drop_one(const at::Tensor& victims, const at::Tensor& wanted) {
  const auto device = columns_[0].device();
  const auto last =
      (torch::tensor(counts_).view({batch_, heads_}).to(device) - 1).clamp_min(0).unsqueeze(2);
  const auto to = torch::where(wanted, victims, last.squeeze(2)).unsqueeze(2);
  for (auto& column : columns_)
    column.scatter_(2, index_for(to, column), column.gather(2, index_for(last, column)));
  const auto dropped = wanted.to(torch::kCPU, torch::kLong).contiguous();
  for (size_t i = 0; i < counts_.size(); ++i) counts_[i] -= dropped.const_data_ptr<int64_t>()[i];
}

void SlotStore::keep(const at::Tensor& slots) {
  const auto kept = slots.ge(0);
  const auto counts = kept.sum(2).to(torch::kCPU).contiguous();
  const auto from = slots.clamp_min(0);
  for (auto& column : columns_) {
    const auto rows = column.gather(2, index_for(from, column));
    column.narrow(2, 0, slots.size(2)).copy_(rows);
  }
  std::copy_n(counts.const_data_ptr<int64_t>(), counts_.size(), counts_.begin());
  shrink();
}

void SlotStore::truncate(int64_t b, int64_t rows) {
  for (int64_t head = 0; head < heads_; ++head) {
    auto& count = counts_[static_cast<size_t>(b * heads_ + head)];
    count = std::min(count, rows);
  }
}

void SlotStore::clear() { std::ranges::fill(counts_, 0); }

SlotStore SlotStore::copy() const {
  SlotStore out = *this;
  out.columns_ = copies(columns_);
  return out;
}

at::Tensor SlotStore::column(size_t index) const { return columns_[index].narrow(2, 0, rows()); }

void SlotStore::set_column(size_t index, const at::Tensor& values) { column(index).copy_(values); }

int64_t SlotStore::row_bytes(size_t column) const {
  if (columns_.empty()) return 0;
  return columns_[column].size(3) * static_cast<int64_t>(columns_[column].element_size());
}

}  // namespace kvsmith
