#include "serve/stacked_rows.h"

#include <algorithm>

#include <torch/types.h>

#include "core/error.h"

namespace kvsmith {
namespace {

/// Of every stream that of one sequence.
std::vector<at::Tensor> of_member(const std::vector<at::Tensor>& streams, size_t member) {
  std::vector<at::Tensor> out;
  for (const auto& stream : streams)
    out.push_back(stream.defined() ? stream.narrow(0, static_cast<int64_t>(member), 1) : stream);
  return out;
}

bool begin_at_zero(const std::vector<Rows>& parts) {
  return std::ranges::all_of(parts, [](const Rows& part) {
    return part.empty() || (part.positions.has_spans() && part.positions.span(0).first == 0);
  });
}

/// Where the rows of every part stand, padded to `longest`.
Positions stacked_positions(const std::vector<Rows>& parts, int64_t longest) {
  const auto device = std::ranges::find_if_not(parts, &Rows::empty)->positions.at().device();
  if (begin_at_zero(parts)) {
    std::vector<Span> spans;
    for (const auto& part : parts)
      spans.push_back(part.empty() ? Span{0, 0} : part.positions.span(0));
    const bool even = std::ranges::all_of(spans, [&](const Span& s) { return s == spans[0]; });
    return even ? Positions::range(0, longest, device)
                : Positions::ragged(std::move(spans), device);
  }
  int64_t heads = 1;
  for (const auto& part : parts) heads = std::max(heads, part.positions.by_head().size(1));
  std::vector<at::Tensor> at;
  for (const auto& part : parts) {
    const int64_t rows = part.empty() ? 0 : part.positions.seq();
    auto own = torch::full({1, heads, longest}, -1, torch::dtype(torch::kLong).device(device));
    if (rows > 0) own.narrow(2, 0, rows).copy_(part.positions.by_head());
    at.push_back(std::move(own));
  }
  const auto all = torch::cat(at);
  return Positions::scattered(heads == 1 ? all.squeeze(1) : all);
}

}  // namespace

Rows StackedRows::stacked(std::vector<Rows> parts) const {
  Rows out;
  counts_.clear();
  observers_.clear();
  longest_ = 0;
  for (const auto& part : parts) {
    counts_.push_back(part.empty() ? 0 : part.positions.seq());
    observers_.push_back(part.observer);
    longest_ = std::max(longest_, counts_.back());
    if (part.observer) out.observer = const_cast<StackedRows*>(this);
  }
  const auto some = std::ranges::find_if_not(parts, &Rows::empty);
  if (some == parts.end()) return out;
  const auto batch = static_cast<int64_t>(parts.size());
  for (size_t i = 0; i < some->streams.size(); ++i) {
    auto& all = out.streams.emplace_back();
    const auto& like = some->streams[i];
    if (!like.defined()) continue;
    all = torch::empty({batch, like.size(1), longest_, like.size(3)}, like.options());
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t rows = counts_[static_cast<size_t>(b)];
      const auto own = all.narrow(0, b, 1);
      if (rows > 0) own.narrow(2, 0, rows).copy_(parts[static_cast<size_t>(b)].streams[i]);
      // zeros, not garbage: these rows are masked, and 0 * NaN is NaN
      own.narrow(2, rows, longest_ - rows).zero_();
    }
  }
  out.positions = stacked_positions(parts, longest_);
  return out;
}

Rows StackedRows::read() const {
  std::vector<Rows> parts;
  for (const auto* member : members_) parts.push_back(member->read());
  return stacked(std::move(parts));
}

void StackedRows::rewind(const Positions& /*positions*/) {
  for (size_t i = 0; i < members_.size(); ++i) members_[i]->rewind(place(i));
}

Rows StackedRows::write(const Positions& /*positions*/, std::vector<at::Tensor> fresh) {
  std::vector<Rows> parts;
  for (size_t i = 0; i < members_.size(); ++i)
    parts.push_back(members_[i]->write(place(i), of_member(fresh, i)));
  return stacked(std::move(parts));
}

std::vector<at::Tensor> StackedRows::as_stored(const Positions& /*positions*/,
                                               std::vector<at::Tensor> fresh) const {
  std::vector<std::vector<at::Tensor>> streams(fresh.size());
  for (size_t i = 0; i < members_.size(); ++i) {
    const auto own = members_[i]->as_stored(place(i), of_member(fresh, i));
    for (size_t s = 0; s < own.size(); ++s)
      if (own[s].defined()) streams[s].push_back(own[s]);
  }
  std::vector<at::Tensor> out;
  for (const auto& parts : streams) out.push_back(parts.empty() ? at::Tensor() : torch::cat(parts));
  return out;
}

void StackedRows::observe(const AttentionScores& scores) {
  const int64_t rows = scores.logits.size(-1);
  for (size_t i = 0; i < members_.size(); ++i) {
    if (!observers_[i]) continue;
    const auto own = [&](const at::Tensor& x) {
      return x.size(0) == 1 ? x : x.narrow(0, static_cast<int64_t>(i), 1);
    };
    // its rows, without the padding behind them, and new ones that were joined behind that
    const auto columns = [&](const at::Tensor& x) {
      auto first = own(x).narrow(-1, 0, std::min(rows, counts_[i]));
      if (rows <= longest_) return first;
      return torch::cat({first, own(x).narrow(-1, longest_, rows - longest_)}, -1);
    };
    observers_[i]->observe({.logits = columns(scores.logits),
                            .weights = columns(scores.weights),
                            .q = own(scores.q),
                            .scale = scores.scale,
                            .queries = own(scores.queries),
                            .last = own(scores.last),
                            .rows = columns(scores.rows)});
  }
}

void StackedRows::settle() {
  for (auto* member : members_) member->settle();
}

int64_t StackedRows::bytes_used() const {
  int64_t sum = 0;
  for (const auto* member : members_) sum += member->bytes_used();
  return sum;
}

int64_t StackedRows::bytes_reserved() const {
  int64_t sum = 0;
  for (const auto* member : members_) sum += member->bytes_reserved();
  return sum;
}

void StackedRows::clear() {
  for (auto* member : members_) member->clear();
}

std::unique_ptr<Memory> StackedRows::clone() const {
  throw Error(ExitCode::kInternal, {"a copy of memories that stand together for one step",
                                    "KvCache", "fork() the cache of a sequence"});
}

}  // namespace kvsmith
