#include "ops/slots.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <torch/types.h>

namespace kvsmith {
namespace {

using torch::indexing::Slice;

/// [batch, heads, n, width] -> [batch, kv_heads, group, n, width].
at::Tensor by_group(const at::Tensor& q, int64_t kv_heads) {
  return q.unflatten(1, {kv_heads, q.size(1) / kv_heads});
}

/// Logits of slots from q . (sum of keys) and mass; -inf where nothing has been absorbed.
/// dots: [batch, kv_heads, group, n, slots]; mass: [batch, kv_heads, n, slots].
at::Tensor slot_logits(const at::Tensor& dots,
                       const at::Tensor& mass,
                       const at::Tensor& bias,
                       double scale) {
  const auto empty = mass.le(0).unsqueeze(2);
  const auto safe = mass.unsqueeze(2).masked_fill(empty, 1);  // no 0 / 0 in the backward pass
  return (dots / safe * scale + safe.log() + bias).masked_fill(empty, -INFINITY);
}

/// softmax over the last dimension that gives zeros where every logit is -inf.
at::Tensor safe_softmax(const at::Tensor& logits) {
  const auto hidden = logits.isneginf();
  const auto nothing = hidden.all(-1, /*keepdim=*/true);
  return torch::softmax(logits.masked_fill(nothing, 0), -1).masked_fill(hidden, 0);
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

class Reader {
 public:
  Reader(const BoundedRows& rows,
         const SlotWrites& writes,
         const at::Tensor& bias,
         const Positions& positions,
         const BoundedShape& shape)
      : shape_(shape),
        kv_heads_(rows.k.size(1)),
        layout_(positions, rows.k.size(0)),
        q_(by_group(rows.q.to(torch::kFloat), kv_heads_)),
        rotated_q_(by_group(rows.rotated_q.to(torch::kFloat), kv_heads_)),
        k_(rows.k.to(torch::kFloat)),
        rotated_k_(rows.rotated_k.to(torch::kFloat)),
        v_(rows.v.to(torch::kFloat)),
        bias_(bias.to(torch::kFloat).view({1, kv_heads_, -1, 1, bias.size(1)})),
        scale_(1 / std::sqrt(static_cast<double>(rows.q.size(3)))) {
    // sinks and padding are never absorbed
    const auto absorbable = layout_.at.ge(shape.sinks).unsqueeze(1).unsqueeze(3);
    log_keep_ = writes.log_keep.masked_fill(absorbable.logical_not(), 0);
    take_ = writes.take.masked_fill(absorbable.logical_not(), 0);
    const int64_t batch = k_.size(0), slots = take_.size(3), width = k_.size(3);
    carry_ = {torch::zeros({batch, kv_heads_, slots, width}, k_.options()),
              torch::zeros({batch, kv_heads_, slots, v_.size(3)}, k_.options()),
              torch::zeros({batch, kv_heads_, slots}, k_.options()),
              torch::full({batch, 1}, -1, layout_.segment.options())};
  }

  at::Tensor run(int64_t chunk) {
    const int64_t seq = k_.size(2);
    std::vector<at::Tensor> out;
    for (int64_t first = 0; first < seq; first += chunk)
      out.push_back(read(first, std::min(seq, first + chunk)));
    return torch::cat(out, 3).flatten(1, 2);
  }

 private:
  /// Queries [first, end); takes over what leaves the window with them.
  at::Tensor read(int64_t first, int64_t end) {
    const int64_t window_first = std::max<int64_t>(0, first - shape_.window + 1);
    const int64_t leave_first = std::max<int64_t>(0, first - shape_.window);
    const int64_t leave_end = std::max<int64_t>(0, end - shape_.window);

    std::vector<at::Tensor> logits = {window_logits(first, end, window_first)};
    const int64_t window_rows = end - window_first;
    if (shape_.sinks > 0) logits.push_back(sink_logits(first, end));

    // how much of each leaving token is in each slot when each query reads it
    const auto log_keep = log_keep_.slice(2, leave_first, leave_end);
    const auto take = take_.slice(2, leave_first, leave_end);
    const auto total = log_keep.cumsum(2);  // [batch, kv_heads, leaving, slots]
    const auto leaving = absorbed_by(first, end, leave_first, leave_end);
    const auto carried = layout_.segment.slice(1, first, end).eq(carry_.segment);
    const auto at_query = total_at(total, first, end, leave_first, leave_end);
    const auto kept = at_query.exp() * carried.unsqueeze(1).unsqueeze(3);  // of the carried slots
    at::Tensor share;  // [batch, kv_heads, queries, leaving, slots]
    auto dots = torch::matmul(q_.slice(3, first, end), carry_.key.unsqueeze(2).transpose(3, 4)) *
                kept.unsqueeze(2);
    auto mass = kept * carry_.mass.unsqueeze(2);
    if (leave_end > leave_first) {
      const auto hidden = leaving.logical_not().unsqueeze(1).unsqueeze(4);
      share = (at_query.unsqueeze(3) - total.unsqueeze(2)).masked_fill(hidden, -INFINITY).exp() *
              take.unsqueeze(2);
      const auto scores =
          torch::matmul(q_.slice(3, first, end),
                        k_.slice(2, leave_first, leave_end).unsqueeze(2).transpose(3, 4));
      dots = dots + torch::einsum("bgqem,bgrqe->bgrqm", {share, scores});
      mass = mass + share.sum(3);
    }
    logits.push_back(slot_logits(dots, mass, bias_, scale_));

    const auto weights = safe_softmax(torch::cat(logits, 4));
    auto out = torch::matmul(weights.narrow(4, 0, window_rows),
                             v_.slice(2, window_first, end).unsqueeze(2));
    if (shape_.sinks > 0) {
      const auto of_sinks = weights.narrow(4, window_rows, shape_.sinks);
      out = out + torch::einsum("bgrqs,bgqsd->bgrqd", {of_sinks, sink_rows(v_, first, end)});
    }
    const auto of_slots = weights.slice(4, weights.size(4) - bias_.size(4));
    const auto per_mass =
        of_slots / mass.masked_fill(mass.le(0), 1).unsqueeze(2);  // [b, g, r, queries, slots]
    out = out + torch::matmul(per_mass * kept.unsqueeze(2), carry_.value.unsqueeze(2));
    if (share.defined()) {
      const auto of_leaving = torch::einsum("bgrqm,bgqem->bgrqe", {per_mass, share});
      out = out + torch::matmul(of_leaving, v_.slice(2, leave_first, leave_end).unsqueeze(2));
      take_over(total, take, leave_first, leave_end);
    }
    return out;
  }

  at::Tensor window_logits(int64_t first, int64_t end, int64_t window_first) const {
    const auto scores =
        torch::matmul(rotated_q_.slice(3, first, end),
                      rotated_k_.slice(2, window_first, end).unsqueeze(2).transpose(3, 4));
    const auto index = torch::arange(k_.size(2), layout_.at.options());
    const auto behind =
        index.slice(0, first, end).unsqueeze(1) - index.slice(0, window_first, end).unsqueeze(0);
    auto seen = behind.ge(0).logical_and(behind.lt(shape_.window)).unsqueeze(0);
    seen = seen.logical_and(layout_.same_document(first, end, window_first, end));
    seen = seen.logical_and(layout_.at.slice(1, window_first, end).ge(0).unsqueeze(1));
    return (scores * scale_).masked_fill(seen.logical_not().unsqueeze(1).unsqueeze(1), -INFINITY);
  }

  /// Storage index of each query's sink tokens: [batch, queries, sinks].
  at::Tensor sink_index(int64_t first, int64_t end) const {
    const auto index = torch::arange(first, end, layout_.at.options());
    const auto sink = torch::arange(shape_.sinks, layout_.at.options());
    const auto start = (index.unsqueeze(0) - layout_.at.slice(1, first, end)).unsqueeze(2);
    return (start + sink).clamp(0, k_.size(2) - 1);
  }

  /// rows: [batch, kv_heads, seq, width] -> [batch, kv_heads, queries, sinks, width].
  at::Tensor sink_rows(const at::Tensor& rows, int64_t first, int64_t end) const {
    const auto index = sink_index(first, end).flatten(1);
    const auto wide = index.unsqueeze(1).unsqueeze(3).expand({-1, rows.size(1), -1, rows.size(3)});
    return rows.gather(2, wide).unflatten(2, {end - first, shape_.sinks});
  }

  at::Tensor sink_logits(int64_t first, int64_t end) const {
    const auto scores = torch::einsum(
        "bgrqd,bgqsd->bgrqs", {rotated_q_.slice(3, first, end), sink_rows(rotated_k_, first, end)});
    const auto sink = torch::arange(shape_.sinks, layout_.at.options());
    // within the window a sink is an ordinary row
    const auto outside = sink.le(layout_.at.slice(1, first, end).unsqueeze(2) - shape_.window);
    return (scores * scale_)
        .masked_fill(outside.logical_not().unsqueeze(1).unsqueeze(1), -INFINITY);
  }

  /// Which leaving rows each query finds in the slots: [batch, queries, leaving].
  at::Tensor absorbed_by(int64_t first, int64_t end, int64_t leave_first, int64_t leave_end) const {
    const auto query = torch::arange(first, end, layout_.at.options()).unsqueeze(1);
    const auto row = torch::arange(leave_first, leave_end, layout_.at.options()).unsqueeze(0);
    return row.le(query - shape_.window)
        .unsqueeze(0)
        .logical_and(layout_.same_document(first, end, leave_first, leave_end));
  }

  /// Sum of log_keep over the leaving rows that stand before each query's window, other documents'
  /// included: they cancel or are masked. [batch, kv_heads, queries, slots].
  at::Tensor total_at(const at::Tensor& total,
                      int64_t first,
                      int64_t end,
                      int64_t leave_first,
                      int64_t leave_end) const {
    const auto& like = carry_.mass;
    auto padded = torch::cat({torch::zeros_like(like).unsqueeze(2), total}, 2);
    const auto query = torch::arange(first, end, layout_.at.options());
    const auto count = (query - shape_.window + 1 - leave_first).clamp(0, leave_end - leave_first);
    return padded.index_select(2, count);
  }

  void take_over(const at::Tensor& total,
                 const at::Tensor& take,
                 int64_t leave_first,
                 int64_t leave_end) {
    const auto segment = layout_.segment.slice(1, leave_end - 1, leave_end);
    const auto same = layout_.segment.slice(1, leave_first, leave_end).eq(segment);
    const auto last = total.slice(2, total.size(2) - 1);
    const auto hidden = same.logical_not().unsqueeze(1).unsqueeze(3);
    const auto share = (last - total).masked_fill(hidden, -INFINITY).exp() * take;
    const auto kept = last.squeeze(2).exp() * segment.eq(carry_.segment).unsqueeze(2);
    const auto from = [&](const at::Tensor& rows) {
      return torch::matmul(share.transpose(2, 3), rows.slice(2, leave_first, leave_end));
    };
    carry_.key = carry_.key * kept.unsqueeze(3) + from(k_);
    carry_.value = carry_.value * kept.unsqueeze(3) + from(v_);
    carry_.mass = carry_.mass * kept + share.sum(2);
    carry_.segment = segment;
  }

  BoundedShape shape_;
  int64_t kv_heads_;
  Layout layout_;
  at::Tensor q_, rotated_q_, k_, rotated_k_, v_, bias_, log_keep_, take_;
  double scale_;
  Carry carry_;
};

}  // namespace

at::Tensor bounded_attention(const BoundedRows& rows,
                             const SlotWrites& writes,
                             const at::Tensor& slot_bias,
                             const Positions& positions,
                             const BoundedShape& shape,
                             int64_t chunk) {
  return Reader(rows, writes, slot_bias, positions, shape).run(chunk).to(rows.q.scalar_type());
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
  const auto exact =
      (torch::matmul(by_group(rotated_q, kv_heads), rotated_k.unsqueeze(2).transpose(3, 4)) * scale)
          .to(torch::kFloat)
          .masked_fill(mask.logical_not().unsqueeze(2), -INFINITY);
  const auto dots = torch::matmul(by_group(q.to(torch::kFloat), kv_heads),
                                  slots.key.unsqueeze(2).transpose(3, 4));
  const auto mass = slots.mass.unsqueeze(2);
  const auto bias = slot_bias.to(torch::kFloat).view({1, kv_heads, -1, 1, slot_bias.size(1)});
  const auto weights = safe_softmax(torch::cat({exact, slot_logits(dots, mass, bias, scale)}, 4));
  const int64_t rows = v.size(2);
  auto out = torch::matmul(weights.narrow(4, 0, rows).to(v.scalar_type()), v.unsqueeze(2))
                 .to(torch::kFloat);
  const auto per_mass = weights.slice(4, rows) / mass.masked_fill(mass.le(0), 1).unsqueeze(2);
  out = out + torch::matmul(per_mass, slots.value.unsqueeze(2));
  return out.flatten(1, 2).to(q.scalar_type());
}

}  // namespace kvsmith
