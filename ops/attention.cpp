#include "ops/attention.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include <torch/types.h>

#include "ops/observed_attention.h"

namespace kvsmith {
namespace {

double scale_of(double scale, const at::Tensor& q) {
  return scale > 0 ? scale : 1 / std::sqrt(static_cast<double>(q.size(3)));
}

/// Reads keys and values once per group: the queries of a group are rows of one matrix product,
/// which on CPU streams a long cache faster than a fused kernel does for a single query.
at::Tensor grouped(const at::Tensor& q,
                   const at::Tensor& k,
                   const at::Tensor& v,
                   const at::Tensor& mask,
                   double scale) {
  const int64_t batch = q.size(0), heads = q.size(1), queries = q.size(2), width = q.size(3);
  const int64_t kv_heads = k.size(1), group = heads / kv_heads;
  auto rows_of_group = q.reshape({batch, kv_heads, group * queries, width});
  auto scores = torch::matmul(rows_of_group, k.transpose(2, 3)) * scale;
  const auto hidden = mask.defined() ? mask.logical_not().repeat({1, 1, group, 1}) : at::Tensor();
  auto weights = softmax_of_visible(scores, hidden).to(v.scalar_type());
  return torch::matmul(weights, v).reshape({batch, heads, queries, v.size(3)});
}

/// A mask that differs between key/value heads, for the query heads of each.
std::optional<at::Tensor> for_query_heads(const std::optional<at::Tensor>& mask, int64_t heads) {
  if (!mask || mask->size(1) == 1 || mask->size(1) == heads) return mask;
  return mask->repeat_interleave(heads / mask->size(1), 1);
}

/// The fused kernels take keys and values of one width only: without the padding, training on 2048
/// tokens with widths 96 and 64 takes two to three times as long on CPU.
at::Tensor fused(const at::Tensor& q,
                 const at::Tensor& k,
                 const at::Tensor& v,
                 const std::optional<at::Tensor>& mask,
                 bool is_causal,
                 double scale) {
  const int64_t width = k.size(3), value_width = v.size(3), widest = std::max(width, value_width);
  const auto widen = [&](const at::Tensor& x) {
    return x.size(3) == widest ? x : torch::constant_pad_nd(x, {0, widest - x.size(3)});
  };
  const auto out = at::scaled_dot_product_attention(widen(q), widen(k), widen(v),
                                                    for_query_heads(mask, q.size(1)), 0.0,
                                                    is_causal, scale, /*enable_gqa=*/true);
  return value_width == widest ? out : out.narrow(3, 0, value_width);
}

/// All queries of a text over all rows but their own: the causal triangle, one row down. Its mask
/// would have fused kernels compute the square.
at::Tensor strictly_causal(const at::Tensor& q,
                           const at::Tensor& k,
                           const at::Tensor& v,
                           double scale) {
  const int64_t rows = q.size(2) - 1;
  const auto out = fused(q.narrow(2, 1, rows), k.narrow(2, 0, rows), v.narrow(2, 0, rows), {},
                         /*is_causal=*/true, scale);
  return torch::constant_pad_nd(out, {0, 0, 1, 0});  // the first query sees nothing
}

/// Queries that a window lets see few of many rows, in chunks that meet only the rows of theirs:
/// time and mask grow with the window and not with the square of the text.
at::Tensor banded(const at::Tensor& q,
                  const at::Tensor& k,
                  const at::Tensor& v,
                  const Visibility& visibility,
                  int64_t chunk,
                  double scale) {
  const Span queries = visibility.queries.span(0), rows = visibility.rows.span(0);
  const auto device = q.device();
  std::vector<at::Tensor> out;
  for (int64_t first = queries.first; first < queries.end(); first += chunk) {
    const int64_t count = std::min(chunk, queries.end() - first), end = first + count;
    const int64_t begin = std::max(rows.first, first - visibility.window + 1);
    const int64_t sinks = std::clamp(visibility.sinks - rows.first, int64_t{0}, begin - rows.first);
    const auto band = [&](const at::Tensor& x) {
      const auto near = x.narrow(2, begin - rows.first, end - begin);
      return sinks > 0 ? torch::cat({x.narrow(2, 0, sinks), near}, 2) : near;
    };
    const auto near = Positions::range(begin, end - begin, device);
    const auto seen =
        sinks > 0 ? Positions::joined(Positions::range(rows.first, sinks, device), near) : near;
    const auto asking = Positions::range(first, count, device);
    const Visibility part{.queries = asking,
                          .rows = seen,
                          .window = visibility.window,
                          .sinks = visibility.sinks,
                          .strict = visibility.strict};
    const auto some = q.narrow(2, first - queries.first, count);
    out.push_back(attention(some, band(k), band(v), part, scale));
  }
  return torch::cat(out, 2);
}

/// What `attend` gives for all visible rows and for those of a streaming head, mixed by head.
template <class Attend>
at::Tensor gated(const Visibility& visibility, int64_t heads, const Attend& attend) {
  const HeadGates& gates = *visibility.gates;
  Visibility all = visibility;
  all.gates = nullptr;
  Visibility streaming = all;
  streaming.window = gates.window;
  streaming.sinks = gates.sinks;
  streaming.observer = nullptr;
  const at::Tensor near = attend(streaming), far = attend(all);
  const auto alpha = gates.alpha.repeat_interleave(heads / gates.alpha.size(0));
  return torch::lerp(near, far, alpha.view({1, -1, 1, 1}).to(far.scalar_type()));
}

}  // namespace

bool Visibility::is_suffix() const {
  return !allowed.defined() && queries.is_range() && rows.is_range() && rows.span(0).first == 0 &&
         queries.span(0).end() == rows.span(0).end() &&
         (window == 0 || rows.span(0).end() <= window);
}

at::Tensor Visibility::mask_of(const Span& some_queries, int64_t count) const {
  const auto some = [&](const at::Tensor& x) {
    return x.narrow(1, some_queries.first, some_queries.count).unsqueeze(1).unsqueeze(3);
  };
  const auto of_rows = [&](const at::Tensor& x) { return x.narrow(2, 0, count).unsqueeze(2); };
  const auto query = some(queries.at()), row = of_rows(rows.by_head());
  auto seen = (strict ? row.lt(query) : row.le(query)).logical_and(row.ge(0));
  if (window > 0) seen = seen.logical_and(row.gt(query - window).logical_or(row.lt(sinks)));
  if (queries.is_packed()) {
    seen = seen.logical_and(some(queries.segments()).eq(of_rows(rows.segments().unsqueeze(1))));
  }
  if (!allowed.defined()) return seen;
  return seen.logical_and(
      allowed.narrow(2, some_queries.first, some_queries.count).narrow(3, 0, count));
}

at::Tensor Visibility::mask() const {
  // rows that heads keep for themselves are those of one layer only
  if (allowed.defined() || rows.at().dim() == 3) return mask_of({0, queries.seq()}, rows.seq());
  const Span span = rows.is_range() ? rows.span(0) : Span{-1, 0};
  for (const auto& known : *queries.masks_) {
    const bool same_rows = rows.is_range() ? known.span == span : known.rows.is_same(rows.at());
    if (same_rows && known.window == window && known.sinks == sinks && known.strict == strict)
      return known.mask;
  }
  const auto seen = mask_of({0, queries.seq()}, rows.seq());
  queries.masks_->push_back({span, rows.at(), window, sinks, strict, seen});
  return seen;
}

at::Tensor softmax_of_visible(const at::Tensor& scores, const at::Tensor& hidden) {
  if (!hidden.defined()) return torch::softmax(scores, -1, torch::kFloat);
  // masking the weights too turns the NaN of an empty row into zeros
  return torch::softmax(scores.masked_fill(hidden, -INFINITY), -1, torch::kFloat)
      .masked_fill(hidden, 0);
}

at::Tensor attention(const at::Tensor& q,
                     const at::Tensor& k,
                     const at::Tensor& v,
                     const Visibility& visibility,
                     double scale) {
  scale = scale_of(scale, q);
  if (visibility.gates) {
    return gated(visibility, q.size(1),
                 [&](const Visibility& part) { return attention(q, k, v, part, scale); });
  }
  if (visibility.observer) return observed_attention(q, k, v, visibility, {}, scale);
  if (q.size(2) == 1) {
    const auto mask = visibility.is_causal_suffix() ? at::Tensor() : visibility.mask();
    return grouped(q, k, v, mask, scale);
  }
  if (visibility.is_suffix() && visibility.queries.span(0).first == 0) {
    return visibility.strict ? strictly_causal(q, k, v, scale)
                             : fused(q, k, v, {}, /*is_causal=*/true, scale);
  }
  // the finer the fewer rows are met in vain, and the more calls it takes
  constexpr int64_t kFinest = 64, kCoarsest = 256;
  const int64_t chunk = std::clamp(visibility.window / 2, kFinest, kCoarsest);
  if (visibility.window > 0 && !visibility.allowed.defined() && visibility.queries.is_range() &&
      visibility.rows.is_range() && q.size(2) >= 2 * chunk) {
    return banded(q, k, v, visibility, chunk, scale);
  }
  // is_causal is aligned to the top left, wrong for a chunk behind a cache: hence the mask
  return fused(q, k, v, visibility.mask(), /*is_causal=*/false, scale);
}

at::Tensor attention_with_sink_logits(const at::Tensor& q,
                                      const at::Tensor& k,
                                      const at::Tensor& v,
                                      const Visibility& visibility,
                                      const at::Tensor& sinks,
                                      double scale) {
  if (visibility.gates) {
    return gated(visibility, q.size(1), [&](const Visibility& part) {
      return attention_with_sink_logits(q, k, v, part, sinks, scale);
    });
  }
  // One more row, whose key meets each query head's logit in a dimension of its own and whose value
  // is zero, keeps this on the fused kernels and differentiable.
  if (visibility.observer)
    return observed_attention(q, k, v, visibility, sinks, scale_of(scale, q));
  constexpr int64_t kExtra = 8;  // of which one is used; kernels like widths that 8 divides
  const int64_t width = q.size(3);
  scale = scale_of(scale, q);
  const auto widen = [&](const at::Tensor& x) { return torch::constant_pad_nd(x, {0, kExtra}); };
  auto selector = torch::zeros({kExtra}, q.options());
  selector[0] = 1;
  const auto logits = (sinks / scale).to(q.scalar_type()).view({1, -1, 1, 1}) * selector;
  const auto wide_q = torch::cat({q, logits.expand({q.size(0), -1, q.size(2), -1})}, 3);
  const auto sink_key = torch::constant_pad_nd(selector, {width, 0})
                            .expand({k.size(0), k.size(1), 1, width + kExtra});
  const auto wide_k = torch::cat({widen(k), sink_key}, 2);
  const auto wide_v = torch::constant_pad_nd(v, {0, kExtra, 0, 1});
  const auto mask =
      for_query_heads(torch::constant_pad_nd(visibility.mask(), {0, 1}, /*value=*/1), q.size(1));
  return at::scaled_dot_product_attention(wide_q, wide_k, wide_v, mask, 0.0, false, scale, true)
      .narrow(3, 0, v.size(3));
}

at::Tensor attention_reference(const at::Tensor& q,
                               const at::Tensor& k,
                               const at::Tensor& v,
                               const Visibility& visibility,
                               double scale) {
  const int64_t group = q.size(1) / k.size(1);
  auto wide_k = k.to(torch::kFloat).repeat_interleave(group, 1);
  auto wide_v = v.to(torch::kFloat).repeat_interleave(group, 1);
  auto scores = torch::matmul(q.to(torch::kFloat), wide_k.transpose(2, 3)) * scale_of(scale, q);
  auto hidden = for_query_heads(visibility.mask(), q.size(1))->logical_not();
  auto weights = torch::softmax(scores.masked_fill(hidden, -INFINITY), -1).masked_fill(hidden, 0);
  return torch::matmul(weights, wide_v).to(q.scalar_type());
}

}  // namespace kvsmith
