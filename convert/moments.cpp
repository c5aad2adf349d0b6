#include "convert/moments.h"

#include <algorithm>

#include <torch/types.h>

#include "core/error.h"
#include "ops/layers.h"

namespace kvsmith {

Moments::Moments(const ModelConfig& config)
    : inputs_(config.hidden_size + (config.attention_bias ? 1 : 0)) {}

Moments Moments::of(DecoderImpl& model,
                    const std::vector<int32_t>& ids,
                    int64_t context,
                    const Pairs& pairs) {
  const torch::NoGradGuard no_grad;
  if (ids.empty()) throw Error(ExitCode::kBadData, {"no tokens", "the calibration text", ""});
  const bool has_bias = model.config().attention_bias;
  Moments out(model.config());
  std::vector<at::Tensor> inputs(static_cast<size_t>(model.graph().size()));
  const DecoderImpl::Observation observation(model, [&](const MixerPass& pass) {
    auto x = pass.input.flatten(0, 1).cpu().to(torch::kDouble);
    inputs[static_cast<size_t>(pass.layer)] =
        has_bias ? torch::cat({x, torch::ones({x.size(0), 1}, x.options())}, 1) : x;
  });
  const auto all = torch::tensor(ids, torch::kLong).unsqueeze(0).to(model.device());
  for (int64_t first = 0; first < all.size(1); first += context) {
    const int64_t count = std::min(context, all.size(1) - first);
    auto cache = model.make_transient();
    model.step(all.narrow(1, first, count), Positions::range(0, count, model.device()), cache);
    for (const auto& [a, b] : pairs) {
      const auto &x = inputs[static_cast<size_t>(a)], &y = inputs[static_cast<size_t>(b)];
      accumulate(out.sums_[{a, b}], torch::matmul(x.t(), y));
    }
    out.tokens_ += count;
  }
  return out;
}

at::Tensor Moments::between(int64_t a, int64_t b) const {
  if (tokens_ == 0) return torch::eye(inputs_, torch::kDouble);
  const auto found = sums_.find({a, b});
  if (found == sums_.end()) {
    throw Error(ExitCode::kInternal, {"moments of a pair of layers that were not asked for",
                                      std::to_string(a) + ", " + std::to_string(b), "report this"});
  }
  return found->second / static_cast<double>(tokens_);
}

}  // namespace kvsmith
