#include "ops/residual_attention.h"

#include <algorithm>

#include <torch/types.h>

namespace kvsmith {

Leaving leaving_in_order(const at::Tensor& k,
                         const at::Tensor& v,
                         const Positions& positions,
                         int64_t window,
                         int64_t sinks) {
  const int64_t shift = std::min(window, k.size(2));
  const auto later = [&](const at::Tensor& x) {
    return torch::constant_pad_nd(x.narrow(2, 0, x.size(2) - shift), {0, 0, shift, 0});
  };
  // positions count from 0 in each document, so this also keeps out the document before
  return {later(k), later(v), positions.at().ge(window + sinks)};
}

Leaving leaving_among(const at::Tensor& k,
                      const at::Tensor& v,
                      const Positions& rows,
                      const Positions& positions,
                      int64_t window,
                      int64_t sinks) {
  const auto gone = positions.at() - window;
  const auto match = rows.at().unsqueeze(1).eq(gone.unsqueeze(2));  // [batch|1, seq, rows]
  const auto row = match.to(torch::kInt).argmax(2).expand({k.size(0), -1});
  const auto pick = [&](const at::Tensor& x) {
    return x.gather(2, row.unsqueeze(1).unsqueeze(3).expand({-1, x.size(1), -1, x.size(3)}));
  };
  return {pick(k), pick(v), gone.ge(sinks)};
}

at::Tensor softmax_features(const at::Tensor& x) {
  const auto real = x.to(torch::kFloat);
  return torch::cat({torch::softmax(real, -1), torch::softmax(-real, -1)}, -1);
}

Scan residual_attention(const at::Tensor& q,
                        const Leaving& leaving,
                        const Positions& positions,
                        const at::Tensor& initial,
                        int64_t chunk) {
  const auto nothing = leaving.wanted.logical_not().unsqueeze(1).unsqueeze(3);
  return gated_linear_attention(
      softmax_features(q), softmax_features(leaving.k).masked_fill(nothing, 0),
      leaving.v.to(torch::kFloat), /*gates=*/{}, Breaks::of(positions), initial, chunk);
}

}  // namespace kvsmith
