#include "ops/latent_attention.h"

#include <cmath>

#include <torch/types.h>

namespace kvsmith {
namespace {

double scale_of(const SplitQuery& q) {
  return 1 / std::sqrt(static_cast<double>(q.content.size(3) + q.rotary.size(3)));
}

at::Tensor whole(const SplitQuery& q) { return torch::cat({q.content, q.rotary}, 3); }

/// x[h] * matrices[h] for each head. x: [batch, heads, queries, in]; matrices: [heads, in, out].
at::Tensor per_head(const at::Tensor& x, const at::Tensor& matrices) {
  const int64_t batch = x.size(0), heads = x.size(1), queries = x.size(2);
  // sequences side by side: a broadcast product would copy the matrices for each of them
  const auto flat = x.transpose(0, 1).reshape({heads, batch * queries, x.size(3)});
  return torch::bmm(flat, matrices).view({heads, batch, queries, -1}).transpose(0, 1);
}

/// Several queries in one step from nothing are training or the prefill of an empty cache, where
/// expanded keys and values fit the fused kernels. Behind a cache the multiplications decide.
bool absorbing_is_cheaper(const SplitQuery& q, const StateRows& rows, const at::Tensor& up) {
  const auto of = [](int64_t size) { return static_cast<double>(size); };
  const double queries = of(q.content.size(2)), seen = of(rows.state.size(2));
  if (queries > 1 && queries == seen) return false;
  const double state = of(rows.state.size(3)), content = of(q.content.size(3)),
               rotary = of(q.rotary.size(3)),
               key_and_value = of(up.size(0)) / of(q.content.size(1)),
               value = key_and_value - content;
  const double expanded =
      seen * state * key_and_value + queries * seen * (content + rotary + value);
  const double absorbed = queries * state * key_and_value + queries * seen * (2 * state + rotary);
  return absorbed < expanded;
}

}  // namespace

at::Tensor tied_attention(const SplitQuery& q,
                          const StateRows& rows,
                          const Visibility& visibility,
                          double scale) {
  if (scale == 0) scale = scale_of(q);
  const int64_t batch = q.content.size(0), heads = q.content.size(1), width = q.content.size(3);
  const int64_t state_heads = rows.state.size(1), seen = rows.state.size(2);
  const auto content = rows.state.narrow(3, 0, width);
  if (q.content.size(2) > 1 || visibility.observer) {
    const auto shared = rows.shared_key.expand({-1, state_heads, -1, -1});
    return attention(whole(q), torch::cat({content, shared}, 3), rows.state, visibility, scale);
  }
  // scores of the two parts are added, which spares a copy of all rows for each new token
  const int64_t group = heads / state_heads;
  const auto by_content =
      torch::matmul(q.content.reshape({batch, state_heads, group, width}), content.transpose(2, 3));
  const auto by_position =
      torch::matmul(q.rotary.reshape({batch, 1, heads, -1}), rows.shared_key.transpose(2, 3));
  const auto scores = (by_content + by_position.view({batch, state_heads, group, seen})) * scale;
  const auto hidden =
      visibility.is_causal_suffix() ? at::Tensor() : visibility.mask().logical_not();
  const auto weights = softmax_of_visible(scores, hidden).to(rows.state.scalar_type());
  return torch::matmul(weights, rows.state).view({batch, heads, 1, -1});
}

at::Tensor latent_attention(const SplitQuery& q,
                            const StateRows& rows,
                            const at::Tensor& up,
                            const Visibility& visibility) {
  return absorbing_is_cheaper(q, rows, up) ? latent_attention_absorbed(q, rows, up, visibility)
                                           : latent_attention_expanded(q, rows, up, visibility);
}

at::Tensor latent_attention_expanded(const SplitQuery& q,
                                     const StateRows& rows,
                                     const at::Tensor& up,
                                     const Visibility& visibility) {
  const int64_t batch = rows.state.size(0), state_heads = rows.state.size(1),
                seen = rows.state.size(2), state_width = rows.state.size(3);
  const int64_t group = q.content.size(1) / state_heads, content = q.content.size(3);
  const auto matrices = up.to(rows.state.scalar_type()).view({state_heads, -1, state_width});
  const auto states = rows.state.transpose(0, 1).reshape({state_heads, batch * seen, state_width});
  // [batch, state_heads, group, rows, content + value_width]
  const auto both = torch::bmm(states, matrices.transpose(1, 2))
                        .view({state_heads, batch, seen, group, -1})
                        .permute({1, 0, 3, 2, 4});
  const auto shared = rows.shared_key.unsqueeze(2).expand({-1, state_heads, group, -1, -1});
  const auto keys = torch::cat({both.narrow(4, 0, content), shared}, 4).flatten(1, 2);
  const auto values = both.narrow(4, content, both.size(4) - content).flatten(1, 2);
  return attention(whole(q), keys, values, visibility, scale_of(q));
}

at::Tensor latent_attention_absorbed(const SplitQuery& q,
                                     const StateRows& rows,
                                     const at::Tensor& up,
                                     const Visibility& visibility) {
  const int64_t heads = q.content.size(1), content = q.content.size(3);
  const auto matrices = up.to(rows.state.scalar_type()).view({heads, -1, rows.state.size(3)});
  const int64_t value_width = matrices.size(1) - content;
  const auto absorbed = per_head(q.content, matrices.narrow(1, 0, content));
  const auto mixed = tied_attention({absorbed, q.rotary}, rows, visibility, scale_of(q));
  return per_head(mixed, matrices.narrow(1, content, value_width).transpose(1, 2));
}

}  // namespace kvsmith
