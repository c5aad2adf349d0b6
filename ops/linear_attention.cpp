#include "ops/linear_attention.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include <torch/types.h>

#include "ops/checkpoint.h"
#include "ops/groups.h"

namespace kvsmith {
namespace {

using Tensors = std::vector<at::Tensor>;

/// scan(inputs, chunk), computed again for the gradient: a scan has few inputs and many inner
/// results.
Tensors lean(Tensors (*scan)(const Tensors& inputs, int64_t chunk),
             const Tensors& inputs,
             int64_t chunk) {
  return checkpointed([=](const Tensors& again) { return scan(again, chunk); }, inputs);
}

/// Time in chunks.
struct Chunks {
  int64_t seq, length, count;

  Chunks(int64_t tokens, int64_t chunk)
      : seq(tokens),
        length(std::min<int64_t>(
            chunk, static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(tokens))))),
        count((tokens + length - 1) / length) {}

  /// [a, b, seq, ...] -> [a, b, count, length, ...]. What is appended is zero: no key, gate 1.
  at::Tensor split(const at::Tensor& x) const {
    if (!x.defined()) return x;
    std::vector<int64_t> pad(static_cast<size_t>(2 * (x.dim() - 2)), 0);
    pad.back() = count * length - seq;
    return (pad.back() > 0 ? torch::constant_pad_nd(x, pad) : x).unflatten(2, {count, length});
  }
  /// The way back.
  at::Tensor join(const at::Tensor& x) const { return x.flatten(2, 3).narrow(2, 0, seq); }

  /// How many documents have begun in its chunk up to each token: [batch|1, 1, count, length], or
  /// undefined. 0: the state before the chunk is its own document's.
  at::Tensor documents(const at::Tensor& starts) const {
    if (!starts.defined()) return {};
    return split(starts.unsqueeze(1).to(torch::kInt)).cumsum(3);
  }
};

at::Tensor where_first(const at::Tensor& x, const at::Tensor& documents, int64_t trailing) {
  if (!documents.defined()) return x;
  auto others = documents.ne(0);
  for (int64_t i = 0; i < trailing; ++i) others = others.unsqueeze(-1);
  return x.masked_fill(others, 0);
}

at::Tensor last(const at::Tensor& x, int64_t dim) { return x.narrow(dim, x.size(dim) - 1, 1); }

/// The state before each chunk and after the last: [batch, heads, count, ...] and [batch, heads,
/// ...]. `advance(state, n)` is the state after chunk n.
template <class Advance>
std::pair<at::Tensor, at::Tensor> states(at::Tensor state, int64_t count, const Advance& advance) {
  std::vector<at::Tensor> before;
  for (int64_t n = 0; n < count; ++n) {
    before.push_back(state);
    state = advance(state, static_cast<size_t>(n));
  }
  return {torch::stack(before, 2), state};
}

at::Tensor or_zeros(const at::Tensor& initial, const at::Tensor& k, const at::Tensor& v) {
  if (initial.defined()) return initial;
  return torch::zeros({k.size(0), k.size(1), k.size(-1), v.size(-1)}, k.options());
}

/// {first halves, second halves} of the pieces of 2 * `half` tokens.
std::array<at::Tensor, 2> halves(const at::Tensor& x, int64_t half) {
  if (!x.defined()) return {};
  const auto both = x.unflatten(3, {-1, 2, half}).unbind(4);
  return {both[0], both[1]};
}
at::Tensor from_halves(const at::Tensor& first, const at::Tensor& second) {
  return torch::stack({first, second}, 4).flatten(3, 5);
}

/// One side's log gates, summed inside pieces of a chunk. Sums are built up from sums of
/// neighbours, never as a difference of longer ones, which would lose the small ones in fp32.
/// Undefined: no gates.
struct Decay {
  at::Tensor until;  ///< from the piece's first token to each, both included
  at::Tensor after;  ///< from behind each token to the piece's last

  /// Pieces of one token.
  explicit Decay(const at::Tensor& log_gates) {
    if (!log_gates.defined()) return;
    until = log_gates;
    after = torch::zeros_like(log_gates);
  }
  /// Joins pieces of `half` tokens in pairs.
  void grow(int64_t half) {
    if (!until.defined()) return;
    const auto until_of = halves(until, half), after_of = halves(after, half);
    const auto total = [](const at::Tensor& sums) { return sums.narrow(4, sums.size(4) - 1, 1); };
    until = from_halves(until_of[0], until_of[1] + total(until_of[0]));
    after = from_halves(after_of[0] + total(until_of[1]), after_of[1]);
  }
};

at::Tensor scaled(const at::Tensor& x, const at::Tensor& log_scale) {
  return log_scale.defined() ? x * torch::exp(log_scale) : x;
}
/// The same for x with grouped queries: [..., group, width].
at::Tensor scaled_group(const at::Tensor& x, const at::Tensor& log_scale) {
  return log_scale.defined() ? x * torch::exp(log_scale).unsqueeze(-2) : x;
}

/// [.., t, s]: token t of a chunk does not see token s. k: [batch, heads, count, length, width].
at::Tensor hidden(const at::Tensor& k, const at::Tensor& documents) {
  const int64_t length = k.size(3);
  auto later = torch::ones({length, length}, k.options().dtype(torch::kBool)).triu(1);
  if (!documents.defined()) return later;
  return later.logical_or(documents.unsqueeze(-1).ne(documents.unsqueeze(-2)));
}

/// What the tokens of a chunk give to each other where nothing decays: one product under a mask.
at::Tensor within_chunks(const at::Tensor& q,
                         const at::Tensor& k,
                         const at::Tensor& v,
                         const at::Tensor& documents) {
  const int64_t length = q.size(3), group = q.size(4);
  const auto scores = torch::matmul(q.flatten(3, 4), k.transpose(-2, -1))
                          .unflatten(3, {length, group})
                          .masked_fill(hidden(k, documents).unsqueeze(-2), 0);
  return torch::matmul(scores.flatten(3, 4), v).unflatten(3, {length, group});
}

/// What the tokens of a chunk give to each other. A piece of two halves: the second half sees the
/// first across the border between them, so that the exponents of both factors are sums of log
/// gates; the halves are pieces themselves, down to a token that sees itself. Leaves the decays
/// with the chunk as one piece.
at::Tensor within_chunks(const at::Tensor& q,
                         const at::Tensor& k,
                         const at::Tensor& v,
                         Decay& key_decay,
                         Decay& value_decay,
                         const at::Tensor& documents) {
  auto out = (q * k.unsqueeze(4)).sum(-1, true) * v.unsqueeze(4);
  for (int64_t half = 1; half < q.size(3); half *= 2) {
    const auto looking = scaled_group(halves(q, half)[1], halves(key_decay.until, half)[1]);
    const auto seen = scaled(halves(k, half)[0], halves(key_decay.after, half)[0]);
    auto scores = torch::matmul(looking.flatten(4, 5), seen.transpose(-2, -1));
    if (documents.defined()) {
      const auto document = halves(documents, half);
      const auto foreign = document[1].unsqueeze(-1).ne(document[0].unsqueeze(-2));
      scores = scores.unflatten(4, {half, -1}).masked_fill(foreign.unsqueeze(-2), 0).flatten(4, 5);
    }
    const auto values = scaled(halves(v, half)[0], halves(value_decay.after, half)[0]);
    const auto given = scaled_group(torch::matmul(scores, values).unflatten(4, {half, -1}),
                                    halves(value_decay.until, half)[1]);
    out = out + from_halves(torch::zeros_like(given), given);
    key_decay.grow(half);
    value_decay.grow(half);
  }
  return out;
}

/// inputs: q [batch, state_heads, seq, group, key_width], k, v, log gates of keys and of values,
/// starts, initial state -> out [batch, state_heads, seq, group, value_width], state.
Tensors linear_scan(const Tensors& inputs, int64_t chunk) {
  const Chunks chunks(inputs[1].size(2), chunk);
  const auto q = chunks.split(inputs[0]), k = chunks.split(inputs[1]), v = chunks.split(inputs[2]);
  Decay key_decay(chunks.split(inputs[3])), value_decay(chunks.split(inputs[4]));
  const auto documents = chunks.documents(inputs[5]);
  const auto inner = inputs[3].defined() || inputs[4].defined()
                         ? within_chunks(q, k, v, key_decay, value_decay, documents)
                         : within_chunks(q, k, v, documents);

  auto kept = scaled(k, key_decay.after);
  if (documents.defined())
    kept = kept.masked_fill(documents.ne(last(documents, 3)).unsqueeze(-1), 0);
  const auto added = torch::matmul(kept.transpose(-2, -1), scaled(v, value_decay.after)).unbind(2);
  auto left = torch::ones({1, 1, chunks.count, 1, 1}, k.options());
  if (key_decay.until.defined()) left = scaled(left, last(key_decay.until, 3).transpose(3, 4));
  if (value_decay.until.defined()) left = scaled(left, last(value_decay.until, 3));
  if (documents.defined()) left = where_first(left, last(documents, 3), 1);
  const auto left_of = left.unbind(2);

  const auto [before, state] =
      states(or_zeros(inputs[6], k, v), chunks.count,
             [&](const at::Tensor& s, size_t n) { return s * left_of[n] + added[n]; });
  const auto looking = where_first(scaled_group(q, key_decay.until), documents, 2);
  const auto outer = torch::matmul(looking.flatten(3, 4), before).unflatten(3, {chunks.length, -1});
  return {chunks.join(inner + scaled_group(outer, value_decay.until)), state};
}

/// One gate a token, [batch, heads, count, length] log gates -> [.., t, s] the sum of those from s
/// + 1 to t for s < t, else 0. Leaves the decay with the chunk as one piece.
at::Tensor sums_between(Decay& decay) {
  const int64_t length = decay.until.size(3);
  auto sums = torch::zeros_like(decay.until).unsqueeze(-1).unsqueeze(-1);  // [.., pieces, 1, 1]
  for (int64_t half = 1; half < length; half *= 2) {
    const auto of_half = sums.unflatten(3, {-1, 2}).unbind(4);
    const auto across =
        halves(decay.until, half)[1].unsqueeze(-1) + halves(decay.after, half)[0].unsqueeze(-2);
    sums = torch::cat(
        {torch::constant_pad_nd(of_half[0], {0, half}), torch::cat({across, of_half[1]}, -1)}, -2);
    decay.grow(half);
  }
  return sums.squeeze(3);
}

/// inputs: q, k, v, log gate, beta, starts, initial state -> out, state.
///
/// Inside a chunk, u_t = beta_t (v_t - k_t e^g_t S_(t-1)) is what token t writes. Written out over
/// the chunk, (I + L) U = beta V - beta e^G K S for the state S before it, with G the running sum
/// of g and L_ts = beta_t e^(g_(s+1) + ... + g_t) k_t.k_s for s < t: the WY form of the product of
/// Householder-like factors (arXiv:2406.06484 section 3), one triangular solve for each chunk.
Tensors delta_scan(const Tensors& inputs, int64_t chunk) {
  const Chunks chunks(inputs[1].size(2), chunk);
  const auto q = chunks.split(inputs[0]), k = chunks.split(inputs[1]), v = chunks.split(inputs[2]);
  Decay sums(chunks.split(inputs[3]));
  const auto beta = chunks.split(inputs[4]).unsqueeze(-1);
  const auto documents = chunks.documents(inputs[5]);

  const auto decay = torch::exp(sums_between(sums).masked_fill(hidden(k, documents), -INFINITY));
  const auto from_state = where_first(torch::exp(sums.until), documents, 0).unsqueeze(-1);

  const auto corrected = k * beta, columns = k.transpose(-2, -1);
  auto solved = torch::cat({v * beta, corrected * from_state}, -1);
  if (chunks.length > 1) {
    const auto below = (torch::matmul(corrected, columns) * decay).tril(-1);
    solved = torch::linalg_solve_triangular(below, solved, /*upper=*/false, /*left=*/true,
                                            /*unitriangular=*/true);
  }
  const auto parts = solved.split_with_sizes({v.size(-1), k.size(-1)}, -1);
  const auto write = parts[0].unbind(2), taken = parts[1].unbind(2);
  const auto kept = (k * last(decay, -2).transpose(-2, -1)).transpose(-2, -1).unbind(2);
  const auto left = last(from_state, 3).unbind(2);

  const auto [before, state] =
      states(or_zeros(inputs[6], k, v), chunks.count, [&](const at::Tensor& s, size_t n) {
        return s * left[n] + torch::matmul(kept[n], write[n] - torch::matmul(taken[n], s));
      });
  const auto written = parts[0] - torch::matmul(parts[1], before);
  const auto scores = torch::matmul(q, columns) * decay;
  return {chunks.join(torch::matmul(q * from_state, before) + torch::matmul(scores, written)),
          state};
}

/// inputs: q as in linear_scan, k, v, log gate, write, starts, keys, values -> out, keys, values.
Tensors slot_scan(const Tensors& inputs, int64_t chunk) {
  const auto &q = inputs[0], &k = inputs[1], &v = inputs[2], &gate = inputs[3], &write = inputs[4];
  const auto logits = linear_scan({q, k, write, {}, gate, inputs[5], inputs[6]}, chunk);
  const auto weights = torch::softmax(logits[0], -1);
  const auto read = linear_scan({weights, write, v, gate, {}, inputs[5], inputs[7]}, chunk);
  return {read[0], logits[1], read[1]};
}

/// Zero at padding. x: [batch, heads, seq] or [batch, heads, seq, width].
at::Tensor real(const at::Tensor& x, const Breaks& breaks) {
  if (!x.defined() || !breaks.padding.defined()) return x;
  const auto padding = breaks.padding.unsqueeze(1);
  return x.masked_fill(x.dim() == 4 ? padding.unsqueeze(-1) : padding, 0);
}

/// log(sum of e^x) up to each token of a document, by doubling how far back each sum reaches.
/// inputs: x [batch, heads, seq, width], starts -> same shape as x.
Tensors log_sums_of_documents(const Tensors& inputs, int64_t /*chunk*/) {
  auto x = inputs[0];
  const auto& starts = inputs[1];
  const auto index = torch::arange(x.size(2), starts.options().dtype(torch::kLong));
  const auto origin = std::get<0>(torch::where(starts, index, 0).cummax(1));
  const auto place = (index - origin).unsqueeze(1).unsqueeze(-1);  // [batch|1, 1, seq, 1]
  for (int64_t reach = 1; reach < x.size(2); reach *= 2) {
    const auto earlier =
        torch::constant_pad_nd(x.narrow(2, 0, x.size(2) - reach), {0, 0, reach, 0});
    x = torch::where(place.ge(reach), torch::logaddexp(x, earlier), x);
  }
  return {x};
}

}  // namespace

Breaks Breaks::of(const Positions& positions) {
  Breaks out;
  if (positions.is_range()) return out;  // one that starts at 0 finds no state
  const auto& at = positions.at();
  if (positions.is_packed()) {
    const auto& segments = positions.segments();
    const int64_t rest = segments.size(1) - 1;
    out.starts = torch::constant_pad_nd(segments.narrow(1, 1, rest).ne(segments.narrow(1, 0, rest)),
                                        {1, 0}, /*value=*/1);
    out.padding = at.lt(0);
    return out;
  }
  for (int64_t b = 0; b < at.size(0); ++b) {
    if (positions.span(b).count < positions.seq()) out.padding = at.lt(0);
    if (positions.span(b).first == 0) out.starts = at.eq(0);
  }
  return out;
}

Scan gated_linear_attention(const at::Tensor& q,
                            const at::Tensor& k,
                            const at::Tensor& v,
                            const LogGates& gates,
                            const Breaks& breaks,
                            const at::Tensor& initial,
                            int64_t chunk) {
  const auto out = lean(linear_scan,
                        {by_group(q, k.size(1)), real(k, breaks), v, real(gates.keys, breaks),
                         real(gates.values, breaks), breaks.starts, initial},
                        chunk);
  return {by_head(out[0]), out[1]};
}

Scan gated_delta_rule(const at::Tensor& q,
                      const at::Tensor& k,
                      const at::Tensor& v,
                      const at::Tensor& log_gate,
                      const at::Tensor& beta,
                      const Breaks& breaks,
                      const at::Tensor& initial,
                      int64_t chunk) {
  const auto out =
      lean(delta_scan,
           {q, real(k, breaks), v, real(log_gate, breaks), beta, breaks.starts, initial}, chunk);
  return {out[0], out[1]};
}

SlotScan slot_attention(const at::Tensor& q,
                        const at::Tensor& k,
                        const at::Tensor& v,
                        const at::Tensor& log_gate,
                        const at::Tensor& write,
                        const Breaks& breaks,
                        const at::Tensor& keys,
                        const at::Tensor& values,
                        int64_t chunk) {
  const auto out = lean(slot_scan,
                        {by_group(q, k.size(1)), k, v, real(log_gate, breaks), real(write, breaks),
                         breaks.starts, keys, values},
                        chunk);
  return {by_head(out[0]), out[1], out[2]};
}

RunningWeights running_weights(const at::Tensor& logits,
                               const Breaks& breaks,
                               const at::Tensor& log_sum) {
  const int64_t seq = logits.size(2);
  const auto per_slot = [](const at::Tensor& marks) { return marks.unsqueeze(1).unsqueeze(-1); };
  auto sums = breaks.starts.defined() ? lean(log_sums_of_documents, {logits, breaks.starts}, 0)[0]
                                      : torch::logcumsumexp(logits, 2);
  auto before = sums.narrow(2, 0, 1);  // of the first token; any finite value where there is none
  if (log_sum.defined()) {
    before = log_sum.unsqueeze(2);
    auto past = before.expand_as(sums);
    if (breaks.starts.defined())
      past = past.masked_fill(per_slot(breaks.starts.cumsum(1).ne(0)), -INFINITY);
    sums = torch::logaddexp(sums, past);
  }
  auto log_gate = torch::cat({before, sums.narrow(2, 0, seq - 1)}, 2) - sums;
  if (breaks.starts.defined()) log_gate = log_gate.masked_fill(per_slot(breaks.starts), 0);
  auto end = sums.select(2, seq - 1);
  if (breaks.padding.defined()) {
    const auto last_real = breaks.padding.logical_not().sum(1, true).sub(1).clamp_min(0);
    end = sums.take_along_dim(per_slot(last_real), 2).squeeze(2);
  }
  return {log_gate, torch::exp(logits - sums), end};
}

}  // namespace kvsmith
