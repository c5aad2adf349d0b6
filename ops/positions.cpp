#include "ops/positions.h"

#include <algorithm>

#include <torch/types.h>

namespace kvsmith {

struct Positions::RotaryTable {
  double theta;
  int64_t head_dim;
  at::Tensor cos, sin;
};

Positions::Positions(at::Tensor at, bool uniform, std::vector<Span> spans, at::Tensor segments)
    : at_(std::move(at)),
      segments_(std::move(segments)),
      spans_(std::move(spans)),
      uniform_(uniform),
      tables_(std::make_shared<std::vector<RotaryTable>>()),
      masks_(std::make_shared<std::vector<Mask>>()) {}

Positions Positions::range(int64_t first, int64_t count, at::Device device) {
  auto at = torch::arange(first, first + count, torch::dtype(torch::kLong).device(device));
  return {at.unsqueeze(0), true, {{first, count}}};
}

Positions Positions::ragged(std::vector<Span> spans, at::Device device) {
  int64_t longest = 0;
  for (const Span& span : spans) longest = std::max(longest, span.count);
  const auto batch = static_cast<int64_t>(spans.size());
  auto at = torch::full({batch, longest}, -1, torch::kLong);
  for (int64_t b = 0; b < batch; ++b) {
    const Span& span = spans[static_cast<size_t>(b)];
    at[b].narrow(0, 0, span.count).copy_(torch::arange(span.first, span.end(), torch::kLong));
  }
  return {at.to(device), false, std::move(spans)};
}

Positions Positions::packed(at::Tensor at, at::Tensor segments) {
  return {std::move(at), false, {}, std::move(segments)};
}

Positions Positions::scattered(at::Tensor at) { return {std::move(at), false, {}}; }

Positions Positions::joined(const Positions& first, const Positions& second) {
  if (first.seq() == 0) return second;
  if (first.is_range() && second.is_range() && first.span(0).end() == second.span(0).first) {
    return range(first.span(0).first, first.seq() + second.seq(), second.at_.device());
  }
  const int64_t batch = std::max(first.at_.size(0), second.at_.size(0));
  if (first.at_.dim() == 2 && second.at_.dim() == 2)
    return scattered(
        torch::cat({first.at_.expand({batch, -1}), second.at_.expand({batch, -1})}, 1));
  const int64_t heads = std::max(first.by_head().size(1), second.by_head().size(1));
  return scattered(torch::cat(
      {first.by_head().expand({batch, heads, -1}), second.by_head().expand({batch, heads, -1})},
      2));
}

at::Tensor Positions::by_head() const { return at_.dim() == 3 ? at_ : at_.unsqueeze(1); }

Positions Positions::token(int64_t t) const {
  if (uniform_) return range(spans_[0].first + t, 1, at_.device());
  std::vector<Span> spans;
  for (const Span& span : spans_)
    spans.push_back({std::min(span.first + t, span.end()), t < span.count ? 1 : 0});
  return {at_.narrow(1, t, 1), false, std::move(spans)};
}

int64_t Positions::end() const {
  int64_t end = 0;
  for (const Span& span : spans_) end = std::max(end, span.end());
  return end;
}

std::pair<at::Tensor, at::Tensor> Positions::rotary(double theta, int64_t head_dim) const {
  for (const RotaryTable& table : *tables_) {
    if (table.theta == theta && table.head_dim == head_dim) return {table.cos, table.sin};
  }
  const auto options = torch::dtype(torch::kFloat).device(at_.device());
  // angles in fp32 from exponents in fp32, as every Hugging Face Llama computes them
  auto exponent = torch::arange(0, head_dim, 2, options) / static_cast<double>(head_dim);
  auto frequency = torch::pow(theta, exponent).reciprocal();
  auto angle = by_head().to(torch::kFloat).unsqueeze(-1) * frequency;
  tables_->push_back({theta, head_dim, angle.cos(), angle.sin()});
  return {tables_->back().cos, tables_->back().sin};
}

}  // namespace kvsmith
