#include "cache/row_store.h"

#include <algorithm>
#include <numeric>

#include <torch/types.h>

namespace kvsmith {
namespace {

constexpr int64_t kFew = 4;  // rows of a head that go one by one; more are cheaper together

}  // namespace

at::Tensor folded(const at::Tensor& rows, int64_t kept_heads) {
  return rows.size(1) == kept_heads ? rows : rows.transpose(1, 2).flatten(2).unsqueeze(1);
}

at::Tensor unfolded(const at::Tensor& rows, int64_t heads) {
  if (rows.size(1) == heads) return rows;
  return rows.squeeze(1).view({rows.size(0), rows.size(2), heads, -1}).transpose(1, 2);
}

at::Tensor positions_in(const RowStore& store, size_t column) {
  const auto at = store.column(column).squeeze(3).to(torch::kLong);
  const auto taken = store.taken();
  return taken.defined() ? at.masked_fill(taken.logical_not(), -1) : at;
}

at::Tensor chosen_slots(const at::Tensor& chosen) {
  const auto count = chosen.sum(2, /*keepdim=*/true);
  const auto order = torch::argsort(chosen.to(torch::kByte), /*stable=*/true, 2, true);
  const auto place = torch::arange(chosen.size(2), order.options());
  return order.masked_fill(place.ge(count), -1).narrow(2, 0, count.max().item<int64_t>());
}

at::Tensor by_slot(const at::Tensor& shown, const std::vector<int64_t>& before, int64_t rows) {
  const int64_t columns = shown.size(2);
  if (before.empty())
    return columns == rows ? shown : torch::constant_pad_nd(shown, {0, 0, 0, rows - columns});
  const auto device = shown.device();
  const auto first = torch::tensor(before).view({shown.size(0), shown.size(1), 1}).to(device);
  const auto slot = torch::arange(rows, torch::dtype(torch::kLong).device(device));
  const auto column = torch::where(slot.lt(first), slot, slot - first + first.max());
  return shown.gather(
      2, column.clamp_max(columns - 1).unsqueeze(3).expand({-1, -1, -1, shown.size(3)}));
}

RowStore::RowStore(int64_t batch, int64_t heads)
    : batch_(batch), heads_(heads), counts_(static_cast<size_t>(batch * heads), 0) {}

int64_t RowStore::rows() const { return *std::ranges::max_element(counts_); }

int64_t RowStore::total() const {
  return std::accumulate(counts_.begin(), counts_.end(), int64_t{0});
}

void RowStore::drop(const at::Tensor& goes) {
  const auto victims = chosen_slots(goes);
  if (victims.size(2) > kFew) {
    const auto stays = goes.logical_not(), taken = this->taken();
    return keep(chosen_slots(taken.defined() ? stays.logical_and(taken) : stays));
  }
  // from the last slot down: what moves into a slot is none of those that go
  for (int64_t i = victims.size(2); i-- > 0;) {
    const auto slots = victims.select(2, i);
    drop_one(slots.clamp_min(0), slots.ge(0));
  }
}

bool RowStore::is_even() const {
  return std::ranges::all_of(counts_, [&](int64_t count) { return count == counts_[0]; });
}

at::Tensor RowStore::taken() const {
  if (is_even()) return {};
  const auto counts = torch::tensor(counts_).view({batch_, heads_, 1}).to(device());
  return torch::arange(rows(), torch::dtype(torch::kLong).device(device())).lt(counts);
}

}  // namespace kvsmith
