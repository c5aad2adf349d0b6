#include "ops/slots.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <torch/types.h>

#include "ops/groups.h"

namespace kvsmith {
namespace {

/// [heads, slots] -> [1, kv_heads, 1, group, slots] fp32.
at::Tensor bias_by_group(const at::Tensor& bias, int64_t kv_heads) {
  return by_group(bias.view({1, bias.size(0), 1, bias.size(1)}), kv_heads).to(torch::kFloat);
}

/// The heads of a group are rows of one matrix product: a product that is broadcast over them
/// copies the matrix, and sums copies of its gradient. x: [batch, kv_heads, n, group, a]; matrix:
/// [batch, kv_heads, a, b] -> [batch, kv_heads, n, group, b].
at::Tensor times(const at::Tensor& x, const at::Tensor& matrix) {
  return torch::matmul(x.flatten(2, 3), matrix).unflatten(2, {x.size(2), x.size(3)});
}

/// The same where queries may have a matrix each. matrices: [batch, kv_heads, n|1, a, b].
at::Tensor times_each(const at::Tensor& x, const at::Tensor& matrices) {
  return matrices.size(2) == 1 ? times(x, matrices.squeeze(2)) : torch::matmul(x, matrices);
}

/// The logit of what is not seen: far below any score, and finite, so that a query that sees
/// nothing (padding) gets a finite answer. softmax gives it weight 0 beside anything that is seen.
constexpr double kHidden = -1e30;

/// What to add to logits: 0 where `seen`, else kHidden. fp32.
at::Tensor added_where(const at::Tensor& seen) { return torch::where(seen, 0.0, kHidden); }

/// The mass to divide by: 1 where nothing has been absorbed, for no 0 / 0 in the backward pass.
at::Tensor divisor(const at::Tensor& mass) { return mass.masked_fill(mass.le(0), 1); }

/// Logits of slots from q . (sum of keys) and mass; kHidden where nothing has been absorbed.
/// dots: [batch, kv_heads, n, group, slots]; mass: [batch, kv_heads, n, slots].
at::Tensor slot_logits(const at::Tensor& dots,
                       const at::Tensor& mass,
                       const at::Tensor& bias,
                       double scale) {
  const auto empty = mass.le(0).unsqueeze(3);
  const auto safe = divisor(mass).unsqueeze(3);
  return (dots / safe * scale + safe.log() + bias).masked_fill(empty, kHidden);
}

/// Tokens of a text in storage order: their positions and documents, and what follows from them.
struct Layout {
  at::Tensor at;       ///< [batch, seq]
  at::Tensor segment;  ///< [batch, seq]

  explicit Layout(const Positions& positions, int64_t batch)
      : at(positions.at().expand({batch, -1})),
        segment(positions.is_packed() ? positions.segments().to(torch::kLong)
                                      : torch::zeros_like(at)) {}
  at::Tensor same_document(int64_t first, int64_t end, int64_t row_first, int64_t row_end) const {
    return segment.slice(1, first, end)
        .unsqueeze(2)
        .eq(segment.slice(1, row_first, row_end).unsqueeze(1));
  }
};

/// Slots while a text is read chunk by chunk, with the document that they belong to.
struct Carry {
  at::Tensor key, value, mass;
  at::Tensor segment;  ///< [batch, 1]
};

/// A text chunk by chunk. What is read of a chunk comes out of one split of the whole: the backward
/// pass of a slice fills and adds a tensor as large as the text for each chunk.
class Reader {
 public:
  Reader(const BoundedRows& rows,
         const SlotWrites& writes,
         const at::Tensor& bias,
         const Positions& positions,
         const BoundedShape& shape,
         int64_t chunk)
      : shape_(shape),
        chunk_(chunk),
        seq_(rows.k.size(2)),
        kv_heads_(rows.k.size(1)),
        layout_(positions, rows.k.size(0)),
        bias_(bias_by_group(bias, kv_heads_)),
        scale_(1 / std::sqrt(static_cast<double>(rows.q.size(3)))) {
    const auto k = rows.k.to(torch::kFloat), v = rows.v.to(torch::kFloat);
    const auto queries = [&](const at::Tensor& q) {
      return by_group(q, kv_heads_).contiguous().to(torch::kFloat);
    };
    const auto rotated_q = queries(rows.rotated_q);
    const auto rotated_k = rows.rotated_k.to(torch::kFloat);
    q_ = queries(rows.q).split(chunk, 2);
    rotated_q_ = rotated_q.split(chunk, 2);
    window_ = {rotated_k.split(chunk, 2), v.split(chunk, 2)};
    if (shape.sinks > 0) {
      const auto at_sinks = sink_index(positions.is_range());
      sink_logits_ = sink_logits(rotated_q, sink_rows(rotated_k, at_sinks)).split(chunk, 2);
      const auto values = sink_rows(v, at_sinks);
      sink_values_ = values.size(2) == 1 ? Pieces(q_.size(), values) : values.split(chunk, 2);
    }
    // sinks and padding are never absorbed
    const auto kept = layout_.at.ge(shape.sinks).unsqueeze(1).unsqueeze(3).logical_not();
    std::vector<int64_t> sizes;
    for (int64_t first = 0; first < seq_; first += chunk)
      sizes.push_back(leave_end(first) - leave_end(first - chunk));
    sizes.push_back(seq_ - leave_end(seq_ - 1));
    const auto dealt = [&](const at::Tensor& x) { return x.split_with_sizes(sizes, 2); };
    leaving_ = {dealt(k), dealt(v), dealt(writes.log_keep.masked_fill(kept, 0)),
                dealt(writes.take.masked_fill(kept, 0))};
    const int64_t batch = k.size(0), slots = writes.take.size(3);
    carry_ = {torch::zeros({batch, kv_heads_, slots, k.size(3)}, k.options()),
              torch::zeros({batch, kv_heads_, slots, v.size(3)}, k.options()),
              torch::zeros({batch, kv_heads_, slots}, k.options()),
              torch::full({batch, 1}, -1, layout_.segment.options())};
  }

  at::Tensor run() {
    std::vector<at::Tensor> out;
    for (size_t i = 0; i < q_.size(); ++i) out.push_back(read(i));
    return by_head(torch::cat(out, 2));
  }

 private:
  int64_t first_of(size_t chunk) const { return static_cast<int64_t>(chunk) * chunk_; }
  /// How many rows have left the window of the last query of the chunk that begins at `first`.
  int64_t leave_end(int64_t first) const {
    return std::max<int64_t>(0, std::min(seq_, first + chunk_) - shape_.window);
  }

  /// The queries of a chunk; takes over what leaves the window with them.
  at::Tensor read(size_t i) {
    const int64_t first = first_of(i), end = std::min(seq_, first + chunk_);
    const int64_t leave_first = leave_end(first - chunk_), leave_last = leave_end(first);
    // whole chunks from the one on in which the first query's window begins
    const auto window =
        static_cast<size_t>(std::max<int64_t>(0, first - shape_.window + 1) / chunk_);
    const auto in_window = [&](const std::vector<at::Tensor>& pieces) {
      const auto at = [&](size_t n) { return pieces.begin() + static_cast<std::ptrdiff_t>(n); };
      return torch::cat(std::vector<at::Tensor>(at(window), at(i + 1)), 2);
    };
    std::vector<at::Tensor> logits = {
        window_logits(rotated_q_[i], in_window(window_.k), first_of(window), first)};
    const int64_t window_rows = end - first_of(window);
    if (shape_.sinks > 0) logits.push_back(sink_logits_[i]);

    // how much of each leaving token is in each slot when each query reads it
    const auto total = leaving_.log_keep[i].cumsum(2);  // [batch, kv_heads, leaving, slots]
    const auto carried = layout_.segment.slice(1, first, end).eq(carry_.segment);
    const auto at_query = total_at(total, first, end, leave_first, leave_last);
    const auto kept = at_query.exp() * carried.unsqueeze(1).unsqueeze(3);  // of the carried slots
    auto dots = times(q_[i], carry_.key.transpose(2, 3)) * kept.unsqueeze(3);
    auto mass = kept * carry_.mass.unsqueeze(2);
    const bool leaves = leave_last > leave_first;
    // The share of leaving row e that query t finds, exp(at_query[t] - total[e]) * take[e], is a
    // product of what depends on t and what depends on e.
    at::Tensor hidden, until, from;
    if (leaves) {
      hidden = not_absorbed(first, end, leave_first, leave_last);
      const auto middle = total.narrow(2, total.size(2) / 2, 1);
      until = (at_query - middle).exp();                 // [batch, kv_heads, queries, slots]
      from = (middle - total).exp() * leaving_.take[i];  // [batch, kv_heads, leaving, slots]
      const auto scores = times(q_[i], leaving_.k[i].transpose(2, 3)).masked_fill(hidden, 0);
      const auto counted =
          hidden.logical_not().to(torch::kFloat).expand({-1, kv_heads_, -1, 1, -1});
      const auto sums = times(torch::cat({scores, counted}, 3), from) * until.unsqueeze(3);
      dots = dots + sums.narrow(3, 0, dots.size(3));
      mass = mass + sums.select(3, dots.size(3));
    }
    logits.push_back(slot_logits(dots, mass, bias_, scale_));

    const auto weights = torch::softmax(torch::cat(logits, 4), 4);
    auto out = times(weights.narrow(4, 0, window_rows), in_window(window_.v));
    if (shape_.sinks > 0) {
      const auto of_sinks = weights.narrow(4, window_rows, shape_.sinks);
      out = out + times_each(of_sinks, sink_values_[i]);
    }
    const auto of_slots = weights.slice(4, weights.size(4) - bias_.size(4));
    const auto per_mass = of_slots / divisor(mass).unsqueeze(3);  // [b, g, queries, r, slots]
    out = out + times(per_mass * kept.unsqueeze(3), carry_.value);
    if (leaves) {
      const auto of_leaving = times(per_mass * until.unsqueeze(3), from.transpose(2, 3));
      out = out + times(of_leaving.masked_fill(hidden, 0), leaving_.v[i]);
      take_over(i, total, leave_first, leave_last);
    }
    return out;
  }

  /// `k`: rows from `row_first` on, [batch, kv_heads, rows, head_dim].
  at::Tensor window_logits(const at::Tensor& q,
                           const at::Tensor& k,
                           int64_t row_first,
                           int64_t first) const {
    const int64_t end = first + q.size(2);
    const auto behind = torch::arange(first, end, layout_.at.options()).unsqueeze(1) -
                        torch::arange(row_first, end, layout_.at.options()).unsqueeze(0);
    auto seen = behind.ge(0).logical_and(behind.lt(shape_.window)).unsqueeze(0);
    seen = seen.logical_and(layout_.same_document(first, end, row_first, end));
    seen = seen.logical_and(layout_.at.slice(1, row_first, end).ge(0).unsqueeze(1));
    return torch::add(added_where(seen).unsqueeze(1).unsqueeze(3), times(q, k.transpose(2, 3)),
                      scale_);
  }

  /// Storage index of the sink tokens of each query, or of all where they are the same: [batch,
  /// seq|1, sinks].
  at::Tensor sink_index(bool one_document) const {
    const auto begin = torch::arange(seq_, layout_.at.options()).unsqueeze(0) - layout_.at;
    const auto sink = torch::arange(shape_.sinks, layout_.at.options());
    const auto of_query = one_document ? begin.narrow(1, 0, 1) : begin;
    return (of_query.unsqueeze(2) + sink).clamp(0, seq_ - 1);
  }

  /// rows: [batch, kv_heads, seq, width] -> [batch, kv_heads, seq|1, sinks, width].
  at::Tensor sink_rows(const at::Tensor& rows, const at::Tensor& index) const {
    const auto wide = index.flatten(1).unsqueeze(1).unsqueeze(3);
    return rows.gather(2, wide.expand({-1, rows.size(1), -1, rows.size(3)}))
        .unflatten(2, {index.size(1), shape_.sinks});
  }

  at::Tensor sink_logits(const at::Tensor& q, const at::Tensor& sinks) const {
    const auto sink = torch::arange(shape_.sinks, layout_.at.options());
    // within the window a sink is an ordinary row
    const auto outside = sink.le(layout_.at.unsqueeze(2) - shape_.window);
    return torch::add(added_where(outside).unsqueeze(1).unsqueeze(3),
                      times_each(q, sinks.transpose(3, 4)), scale_);
  }

  /// Where a query does not find a leaving row in the slots: [batch, 1, queries, 1, leaving].
  at::Tensor not_absorbed(int64_t first,
                          int64_t end,
                          int64_t leave_first,
                          int64_t leave_last) const {
    const auto query = torch::arange(first, end, layout_.at.options()).unsqueeze(1);
    const auto row = torch::arange(leave_first, leave_last, layout_.at.options()).unsqueeze(0);
    return row.le(query - shape_.window)
        .unsqueeze(0)
        .logical_and(layout_.same_document(first, end, leave_first, leave_last))
        .logical_not()
        .unsqueeze(1)
        .unsqueeze(3);
  }

  /// Sum of log_keep over the leaving rows that stand before each query's window, other documents'
  /// included: they cancel or are masked. [batch, kv_heads, queries, slots].
  at::Tensor total_at(const at::Tensor& total,
                      int64_t first,
                      int64_t end,
                      int64_t leave_first,
                      int64_t leave_last) const {
    const auto& like = carry_.mass;
    auto padded = torch::cat({torch::zeros_like(like).unsqueeze(2), total}, 2);
    const auto query = torch::arange(first, end, layout_.at.options());
    const auto count = (query - shape_.window + 1 - leave_first).clamp(0, leave_last - leave_first);
    return padded.index_select(2, count);
  }

  void take_over(size_t i, const at::Tensor& total, int64_t leave_first, int64_t leave_last) {
    const auto segment = layout_.segment.slice(1, leave_last - 1, leave_last);
    const auto same = layout_.segment.slice(1, leave_first, leave_last).eq(segment);
    const auto last = total.slice(2, total.size(2) - 1);
    const auto hidden = same.logical_not().unsqueeze(1).unsqueeze(3);
    const auto share = (last - total).masked_fill(hidden, -INFINITY).exp() * leaving_.take[i];
    const auto kept = last.squeeze(2).exp() * segment.eq(carry_.segment).unsqueeze(2);
    const auto sum = [&](const at::Tensor& rows) {
      return torch::matmul(share.transpose(2, 3), rows);
    };
    carry_.key = carry_.key * kept.unsqueeze(3) + sum(leaving_.k[i]);
    carry_.value = carry_.value * kept.unsqueeze(3) + sum(leaving_.v[i]);
    carry_.mass = carry_.mass * kept + share.sum(2);
    carry_.segment = segment;
  }

  /// By chunk.
  using Pieces = std::vector<at::Tensor>;

  BoundedShape shape_;
  int64_t chunk_, seq_, kv_heads_;
  Layout layout_;
  at::Tensor bias_;
  double scale_;
  Pieces q_, rotated_q_, sink_logits_, sink_values_;
  struct {
    Pieces k, v;
  } window_;  ///< exact rows, keys rotated
  struct {
    Pieces k, v, log_keep, take;
  } leaving_;  ///< what leaves the window with each chunk; last what stays
  Carry carry_;
};

}  // namespace

at::Tensor bounded_attention(const BoundedRows& rows,
                             const SlotWrites& writes,
                             const at::Tensor& slot_bias,
                             const Positions& positions,
                             const BoundedShape& shape,
                             int64_t chunk) {
  return Reader(rows, writes, slot_bias, positions, shape, std::min(chunk, kSlotChunk))
      .run()
      .to(rows.q.scalar_type());
}

Slots absorbed(const BoundedRows& rows,
               const SlotWrites& writes,
               const Positions& positions,
               const BoundedShape& shape) {
  const int64_t batch = rows.k.size(0);
  const auto at = positions.at().expand({batch, -1});
  const auto last = std::get<0>(at.max(1, /*keepdim=*/true));
  const auto gone =
      at.ge(shape.sinks).logical_and(at.le(last - shape.window)).unsqueeze(1).unsqueeze(3);
  const auto log_keep = writes.log_keep.masked_fill(gone.logical_not(), 0);
  // what is kept of a token by those that follow it
  const auto after = log_keep.sum(2, /*keepdim=*/true) - log_keep.cumsum(2);
  const auto share = after.exp() * writes.take.masked_fill(gone.logical_not(), 0);
  const auto sum = [&](const at::Tensor& values) {
    return torch::matmul(share.transpose(2, 3), values.to(torch::kFloat));
  };
  return {sum(rows.k), sum(rows.v), share.sum(2)};
}

void absorb(Slots& slots,
            const at::Tensor& k,
            const at::Tensor& v,
            const SlotWrites& writes,
            const at::Tensor& wanted) {
  const auto untouched = wanted.logical_not().view({-1, 1, 1});
  const auto keep = writes.log_keep.squeeze(2).exp().masked_fill(untouched, 1);
  const auto take = writes.take.squeeze(2).masked_fill(untouched, 0);
  const auto update = [&](at::Tensor& state, const at::Tensor& row) {
    state.mul_(keep.unsqueeze(3)).add_(take.unsqueeze(3) * row.to(torch::kFloat));
  };
  update(slots.key, k);
  update(slots.value, v);
  slots.mass.mul_(keep).add_(take);
}

at::Tensor bounded_read(const at::Tensor& q,
                        const at::Tensor& rotated_q,
                        const at::Tensor& rotated_k,
                        const at::Tensor& v,
                        const at::Tensor& mask,
                        const Slots& slots,
                        const at::Tensor& slot_bias) {
  const int64_t kv_heads = v.size(1);
  const double scale = 1 / std::sqrt(static_cast<double>(q.size(3)));
  const auto exact = (times(by_group(rotated_q, kv_heads), rotated_k.transpose(2, 3)) * scale)
                         .to(torch::kFloat)
                         .masked_fill(mask.logical_not().unsqueeze(2), kHidden);
  const auto dots = times(by_group(q.to(torch::kFloat), kv_heads), slots.key.transpose(2, 3));
  const auto mass = slots.mass.unsqueeze(2);
  const auto of_slots = slot_logits(dots, mass, bias_by_group(slot_bias, kv_heads), scale);
  const auto weights = torch::softmax(torch::cat({exact, of_slots}, 4), 4);
  const int64_t rows = v.size(2);
  const auto of_rows = times(weights.narrow(4, 0, rows).to(v.scalar_type()), v);
  const auto per_mass = weights.slice(4, rows) / divisor(mass).unsqueeze(3);
  return by_head(of_rows.to(torch::kFloat) + times(per_mass, slots.value)).to(q.scalar_type());
}

}  // namespace kvsmith
