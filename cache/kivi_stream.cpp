#include "cache/kivi_stream.h"

#include <algorithm>
#include <numeric>

#include <torch/types.h>

#include "cache/quantise.h"
#include "models/memory.h"

namespace kvsmith {
namespace {

/// The storage is made of cells along dimension 2: `group` tokens of keys, one token of values.
constexpr int64_t kCells = 2;

at::Tensor grown(const at::Tensor& old, const std::vector<int64_t>& shape, at::TensorOptions type) {
  auto out = torch::zeros(shape, type);
  if (old.defined()) out.narrow(kCells, 0, old.size(kCells)).copy_(old);
  return out;
}

/// Calls run(row, first, count) for the tokens [first, end) of a ring of `rows` rows, as few times
/// as they lie side by side.
template <class Run>
void for_each_run(int64_t first, int64_t end, int64_t rows, const Run& run) {
  while (first < end) {
    const int64_t row = first % rows, count = std::min(end - first, rows - row);
    run(row, first, count);
    first += count;
  }
}

}  // namespace

KiviStream::KiviStream(Groups groups, int64_t batch, int64_t bits, int64_t group, int64_t residual)
    : groups_(groups),
      bits_(bits),
      group_(group),
      residual_(residual),
      quantised_(static_cast<size_t>(batch), 0) {}

int64_t KiviStream::quantised_of(int64_t length) const {
  if (groups_ == Groups::kTokensOfChannel) return length - length % residual_;
  return std::max<int64_t>(0, length - residual_);
}

/// A view of tokens along whose dimension 3 codes share bytes: tokens of a cell, or channels.
at::Tensor KiviStream::packable(const at::Tensor& tokens) const {
  return groups_ == Groups::kTokensOfChannel ? tokens.unflatten(2, {-1, group_}) : tokens;
}

/// A view of packable() tokens with groups as a dimension: 3 of keys, 4 of values.
at::Tensor KiviStream::grouped(const at::Tensor& tokens) const {
  return groups_ == Groups::kTokensOfChannel ? tokens : tokens.unflatten(3, {-1, group_});
}

at::Tensor KiviStream::cells(const at::Tensor& storage,
                             const Lane& lane,
                             int64_t first,
                             int64_t end) const {
  const int64_t tokens = groups_ == Groups::kTokensOfChannel ? group_ : 1;
  return storage.narrow(0, lane.first, lane.count)
      .narrow(kCells, first / tokens, (end - first) / tokens);
}

void KiviStream::reserve(int64_t rows, const at::Tensor& like) {
  if (exact_.defined() && rows <= capacity_) return;
  const int64_t batch = like.size(0), heads = like.size(1), width = like.size(3);
  const auto bytes = like.options().dtype(torch::kByte),
             halves = like.options().dtype(torch::kHalf);
  if (groups_ == Groups::kTokensOfChannel) {
    const int64_t count = rows / group_;
    codes_ = grown(codes_, {batch, heads, count, group_ * bits_ / 8, width}, bytes);
    scale_ = grown(scale_, {batch, heads, count, 1, width}, halves);
    zero_ = grown(zero_, {batch, heads, count, 1, width}, halves);
  } else {
    codes_ = grown(codes_, {batch, heads, rows, width * bits_ / 8}, bytes);
    scale_ = grown(scale_, {batch, heads, rows, width / group_, 1}, halves);
    zero_ = grown(zero_, {batch, heads, rows, width / group_, 1}, halves);
  }
  if (!exact_.defined()) exact_ = torch::zeros({batch, heads, residual_, width}, like.options());
  capacity_ = rows;
}

at::Tensor KiviStream::gather(
    const Lane& lane, int64_t length, const at::Tensor& fresh, int64_t first, int64_t end) const {
  std::vector<at::Tensor> parts;
  const auto ring = exact_.narrow(0, lane.first, lane.count);
  for_each_run(first, std::min(end, length), residual_, [&](int64_t row, int64_t, int64_t count) {
    parts.push_back(ring.narrow(2, row, count));
  });
  first = std::max(first, length);
  if (first < end) parts.push_back(fresh.narrow(2, first - length, end - first));
  return parts.size() == 1 ? parts[0] : torch::cat(parts, 2);
}

void KiviStream::quantise(const Lane& lane, int64_t first, const at::Tensor& tokens) {
  const int64_t group_dim = groups_ == Groups::kTokensOfChannel ? 3 : 4;
  const int64_t end = first + tokens.size(2);
  const auto rows = packable(tokens.to(torch::kFloat));
  const auto made = min_max_codes(grouped(rows), group_dim, bits_);
  cells(codes_, lane, first, end).copy_(pack(made.codes.reshape(rows.sizes()), 3, bits_));
  cells(scale_, lane, first, end).copy_(made.scale);
  cells(zero_, lane, first, end).copy_(made.zero);
}

void KiviStream::append(const Lane& lane, int64_t length, const at::Tensor& fresh) {
  const int64_t end = length + fresh.size(2);
  const int64_t before = quantised_[static_cast<size_t>(lane.first)];
  const int64_t after = std::max(before, quantised_of(end));
  // before fresh tokens overwrite those that leave the ring
  if (after > before) quantise(lane, before, gather(lane, length, fresh, before, after));
  const auto ring = exact_.narrow(0, lane.first, lane.count);
  for_each_run(std::max(length, after), end, residual_,
               [&](int64_t row, int64_t first, int64_t count) {
                 ring.narrow(2, row, count).copy_(fresh.narrow(2, first - length, count));
               });
  std::fill_n(quantised_.begin() + lane.first, lane.count, after);
}

void KiviStream::read(const Lane& lane, int64_t length, const at::Tensor& out) const {
  const int64_t quantised = quantised_[static_cast<size_t>(lane.first)];
  if (quantised > 0) {
    const auto to = out.narrow(2, 0, quantised);
    const bool direct = out.scalar_type() == torch::kFloat;
    const auto decoded = direct ? to : torch::empty(to.sizes(), to.options().dtype(torch::kFloat));
    unpack(cells(codes_, lane, 0, quantised), 3, bits_, packable(decoded));
    apply_min_max(grouped(packable(decoded)), cells(scale_, lane, 0, quantised),
                  cells(zero_, lane, 0, quantised));
    if (!direct) to.copy_(decoded);
  }
  const auto ring = exact_.narrow(0, lane.first, lane.count);
  for_each_run(quantised, length, residual_, [&](int64_t row, int64_t first, int64_t count) {
    out.narrow(2, first, count).copy_(ring.narrow(2, row, count));
  });
}

void KiviStream::clear() { std::ranges::fill(quantised_, 0); }

KiviStream KiviStream::copy() const {
  KiviStream out = *this;
  for (auto* tensor : {&out.codes_, &out.scale_, &out.zero_, &out.exact_})
    if (tensor->defined()) *tensor = tensor->clone();
  return out;
}

int64_t KiviStream::bytes_used(const std::vector<int64_t>& lengths) const {
  if (!exact_.defined()) return 0;
  const auto batch = static_cast<int64_t>(lengths.size());
  const int64_t tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  const int64_t codes = std::accumulate(quantised_.begin(), quantised_.end(), int64_t{0});
  const int64_t exact = bytes_of({exact_}) / (batch * residual_) * (tokens - codes);
  if (capacity_ == 0) return exact;
  // first times, then over: a token alone may have a fraction of a scale
  return exact + bytes_of({codes_, scale_, zero_}) * codes / (batch * capacity_);
}

int64_t KiviStream::metadata_bytes() const {
  if (capacity_ == 0) return 0;
  const auto batch = static_cast<int64_t>(quantised_.size());
  const int64_t codes = std::accumulate(quantised_.begin(), quantised_.end(), int64_t{0});
  return bytes_of({scale_, zero_}) * codes / (batch * capacity_);
}

int64_t KiviStream::bytes_reserved() const { return bytes_of({codes_, scale_, zero_, exact_}); }

}  // namespace kvsmith
