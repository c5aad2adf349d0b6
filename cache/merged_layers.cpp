#include "cache/merged_layers.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include <torch/types.h>

#include "cache/quantise.h"
#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

/// Rows of two layers, in fp32, as unit vectors and lengths.
struct Pair {
  std::array<at::Tensor, 2> units, lengths;  ///< [batch, heads, seq, width] and [..., 1]
  at::Tensor angle;                          ///< [batch, heads, seq, 1], from 0 to pi
};

Pair pair_of(const at::Tensor& lower, const at::Tensor& upper) {
  Pair out;
  const std::array<at::Tensor, 2> rows = {lower.to(torch::kFloat), upper.to(torch::kFloat)};
  for (size_t i = 0; i < 2; ++i) {
    out.lengths[i] = rows[i].norm(2, 3, /*keepdim=*/true);
    out.units[i] = rows[i] / out.lengths[i].clamp_min(1e-20);
  }
  // of a half difference, which is exact where the cosine is not: at small angles
  const auto chord = (out.units[0] - out.units[1]).norm(2, 3, /*keepdim=*/true) / 2;
  out.angle = 2 * torch::asin(chord.clamp_max(1));
  return out;
}

at::Tensor between(const Pair& pair, double t) {
  const auto sine = torch::sin(pair.angle);
  const auto is_line = sine.lt(1e-6);  // the arc is a point, or any great circle
  const auto of_lower =
      torch::where(is_line, torch::full_like(sine, 1 - t), torch::sin((1 - t) * pair.angle) / sine);
  const auto of_upper =
      torch::where(is_line, torch::full_like(sine, t), torch::sin(t * pair.angle) / sine);
  const auto direction = of_lower * pair.units[0] + of_upper * pair.units[1];
  return direction / direction.norm(2, 3, /*keepdim=*/true).clamp_min(1e-20);
}

/// The chosen rows of every column, for SlotStore::append_some.
void append_chosen(SlotStore& store,
                   const std::vector<at::Tensor>& columns,
                   const at::Tensor& chosen) {
  const auto slots = chosen_slots(chosen);
  if (slots.size(2) == 0) return;
  const auto index = slots.clamp_min(0).unsqueeze(3);
  std::vector<at::Tensor> rows;
  for (const auto& column : columns)
    rows.push_back(column.gather(2, index.expand({-1, -1, -1, column.size(3)})));
  store.append_some(rows, slots.ge(0).sum(2));
}

}  // namespace

MergedLayers::MergedLayers(std::shared_ptr<const LayerPlan> plan, const CacheOptions& options)
    : plan_(std::move(plan)),
      options_(options),
      merged_(options.batch, plan_->facts.heads, options.growth_rows),
      exact_(options.batch, plan_->facts.heads, options.growth_rows),
      lengths_(static_cast<size_t>(options.batch), 0) {}

at::Tensor MergedLayers::decoded(size_t layer, size_t stream) const {
  const auto& [shape, codec] = plan_->streams[stream];
  std::vector<at::Tensor> parts;
  if (!merged_.empty()) {
    const auto direction = codec->decode(merged_.column(stream), shape.width, at::kFloat);
    parts.push_back((direction * merged_.column(length_column(layer, stream))).to(type_));
  }
  if (!exact_.empty())
    parts.push_back(codec->decode(exact_.column(layer * streams() + stream), shape.width, type_));
  return torch::cat(parts, 2);
}

Rows MergedLayers::read_of(size_t layer) const {
  Rows rows;
  if (merged_.empty() && exact_.empty()) return rows;
  rows.streams.resize(stream_slots_);
  for (size_t i = 0; i < streams(); ++i)
    rows.streams[plan_->streams[i].shape.index] = decoded(layer, i);
  transient_peak_ = std::max(transient_peak_, bytes_of(rows.streams));
  std::vector<at::Tensor> at;
  if (!merged_.empty()) at.push_back(positions_in(merged_, 3 * streams()));
  if (!exact_.empty()) at.push_back(positions_in(exact_, 2 * streams()));
  rows.positions = Positions::scattered(torch::cat(at, 2));
  return rows;
}

void MergedLayers::rewind(const Positions& positions) {
  for (size_t b = 0; b < lengths_.size(); ++b) {
    const Span& span = positions.span(static_cast<int64_t>(b));
    if (span.count == 0 || span.first >= lengths_[b]) continue;
    throw Error(ExitCode::kInternal,
                {cat("position ", span.first, " after ", lengths_[b], " with merged layers"),
                 "KvCache", "what is merged cannot be taken back: fork() the cache before"});
  }
}

Rows MergedLayers::write_of(size_t layer,
                            const Positions& positions,
                            std::vector<at::Tensor> fresh) {
  const torch::NoGradGuard no_grad;
  rewind(positions);
  stream_slots_ = fresh.size();
  type_ = fresh[plan_->streams[0].shape.index].scalar_type();
  pending_[layer] = fresh;
  transient_peak_ = std::max(transient_peak_, bytes_of(pending_[0]) + bytes_of(pending_[1]));
  if (layer == 1) {
    pending_at_ = positions.at().expand({options_.batch, positions.seq()});
    for (size_t b = 0; b < lengths_.size(); ++b) {
      const Span& span = positions.span(static_cast<int64_t>(b));
      if (span.count > 0) lengths_[b] = span.end();
    }
  }
  return joined(read_of(layer), positions, fresh);
}

void MergedLayers::merge() {
  if (!pending_at_.defined()) return;
  const torch::NoGradGuard no_grad;
  std::vector<Pair> pairs;
  at::Tensor angle;
  for (const auto& [shape, codec] : plan_->streams) {
    pairs.push_back(pair_of(pending_[0][shape.index], pending_[1][shape.index]));
    angle = angle.defined() ? angle.maximum(pairs.back().angle) : pairs.back().angle;
  }
  const int64_t heads = plan_->facts.heads;
  const auto at = pending_at_.view({options_.batch, 1, -1, 1}).expand({-1, heads, -1, -1});
  const auto is_there = at.squeeze(3).ge(0);
  const auto is_exact = angle.squeeze(3).gt(plan_->config.merge_angle * std::numbers::pi);
  std::vector<at::Tensor> merged, exact;
  for (size_t i = 0; i < streams(); ++i)
    merged.push_back(plan_->streams[i].codec->encode(between(pairs[i], plan_->config.merge_t)));
  for (size_t layer = 0; layer < 2; ++layer)
    for (size_t i = 0; i < streams(); ++i) {
      merged.push_back(pairs[i].lengths[layer].clamp_max(kLargestHalf).to(torch::kHalf));
      const auto& [shape, codec] = plan_->streams[i];
      exact.push_back(codec->encode(pending_[layer][shape.index]));
    }
  for (auto* columns : {&merged, &exact}) columns->push_back(at.to(torch::kInt));
  append_chosen(merged_, merged, is_there.logical_and(is_exact.logical_not()));
  append_chosen(exact_, exact, is_there.logical_and(is_exact));
  pending_ = {};
  pending_at_.reset();
}

int64_t MergedLayers::bytes_used() const { return ledger().resident(); }
int64_t MergedLayers::bytes_reserved() const {
  return merged_.bytes_reserved() + exact_.bytes_reserved();
}

ByteLedger MergedLayers::ledger() const {
  ByteLedger out;
  const auto add = [&](const SlotStore& store, size_t coded, size_t index, int64_t copies) {
    if (store.empty()) return;
    const int64_t scales = store.total() * plan_->codec_metadata_bytes() * copies;
    out.codec_metadata += scales;
    out.payload -= scales;
    for (size_t i = 0; i < index; ++i)
      (i < coded ? out.payload : out.codec_metadata) += store.total() * store.row_bytes(i);
    out.index += store.total() * store.row_bytes(index);
  };
  add(merged_, streams(), 3 * streams(), 1);
  add(exact_, 2 * streams(), 2 * streams(), 2);
  out.reserved = bytes_reserved();
  out.transient_peak = transient_peak_;
  return out;
}

int64_t MergedLayers::bytes_read() const {
  int64_t merged = merged_.row_bytes(3 * streams()), exact = exact_.row_bytes(2 * streams());
  for (size_t i = 0; i < streams(); ++i) {
    merged += merged_.row_bytes(i) + merged_.row_bytes(length_column(0, i));
    exact += exact_.row_bytes(i);
  }
  return merged * merged_.total() + exact * exact_.total();
}

void MergedLayers::clear() {
  merged_.clear();
  exact_.clear();
  std::ranges::fill(lengths_, 0);
  pending_ = {};
  pending_at_.reset();
}

std::unique_ptr<Memory> MergedLayers::clone() const {
  auto out = std::make_unique<MergedLayers>(plan_, options_);
  out->merged_ = merged_.copy();
  out->exact_ = exact_.copy();
  out->lengths_ = lengths_;
  out->stream_slots_ = stream_slots_;
  out->type_ = type_;
  out->transient_peak_ = transient_peak_;
  return out;
}

}  // namespace kvsmith
