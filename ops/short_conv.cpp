#include "ops/short_conv.h"

#include <torch/types.h>

#include "ops/layers.h"

namespace kvsmith {
namespace {

/// The `count` columns before the end of each text. wide: [batch, count + seq, channels].
at::Tensor last_columns(const at::Tensor& wide, const Positions& positions, int64_t count) {
  if (positions.is_range() || positions.is_packed())
    return wide.narrow(1, wide.size(1) - count, count);
  std::vector<at::Tensor> ends;
  for (int64_t b = 0; b < wide.size(0); ++b)
    ends.push_back(wide[b].narrow(0, positions.span(b).count, count));
  return torch::stack(ends);
}

}  // namespace

ShortConv short_conv(const at::Tensor& x,
                     const at::Tensor& weight,
                     const Positions& positions,
                     const at::Tensor& tail) {
  const int64_t seq = x.size(1), reach = weight.size(1) - 1;
  const auto wide =
      tail.defined() ? torch::cat({tail, x}, 1) : torch::constant_pad_nd(x, {0, 0, reach, 0});
  const auto columns = wide.to(torch::kFloat);
  at::Tensor out;
  for (int64_t back = 0; back <= reach; ++back) {
    auto term = columns.narrow(1, reach - back, seq) * weight.select(1, reach - back);
    if (positions.is_packed() && back > 0 && back < seq) {
      const auto& segments = positions.segments();
      const auto foreign =
          segments.narrow(1, back, seq - back).ne(segments.narrow(1, 0, seq - back));
      term = term.masked_fill(torch::constant_pad_nd(foreign, {back, 0}).unsqueeze(-1), 0);
    }
    accumulate(out, term);
  }
  return {out, last_columns(wide, positions, reach)};
}

}  // namespace kvsmith
