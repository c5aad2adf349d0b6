#include "cache/policies/expected.h"

#include <torch/types.h>

#include "models/memory.h"
#include "ops/layers.h"

namespace kvsmith {
namespace {

/// Expected Attention (arXiv:2510.00636): queries to come are taken to be normal with the mean and
/// the covariance of those seen, turned to the positions ahead on average, so that a key k is
/// expected to weigh exp(k.m + k.C k / 2). Ours counts every query of the step, those of sinks
/// included, and leaves out the norm of values, which policies do not see.
class Expected final : public RetentionPolicy {
 public:
  Expected(CacheConfig config, const LayerFacts& facts)
      : config_(std::move(config)), facts_(facts) {}

  bool watches() const override { return true; }

  void observe(const HeadScores& scores, const at::Tensor& /*tally*/) override {
    const auto is_there = scores.queries.ge(0).view({-1, 1, 1, scores.queries.size(1), 1});
    const auto back = Positions::scattered(-scores.queries.clamp_min(0));
    const auto flat = scores.q.flatten(1, 2).to(torch::kFloat);
    const auto unturned = rotate(flat, back, facts_.rope_theta).view(scores.q.sizes());
    // the products of (q, 1) with itself: second moments, sums and the count
    const auto with_one = torch::cat({unturned, torch::ones_like(unturned.narrow(4, 0, 1))}, 4);
    const auto product = torch::matmul((with_one * is_there).transpose(3, 4), with_one);
    moments_ = moments_.defined() ? moments_ + product : product;
    scale_ = scores.scale;
  }

  at::Tensor worth(const KeptRows& rows) const override {
    const auto keys = rows.keys().to(torch::kFloat).unsqueeze(2);
    if (!moments_.defined()) return rows.at.to(torch::kFloat);
    const int64_t width = keys.size(4);
    const auto sums = moments_.select(3, width);
    const auto count = sums.narrow(3, width, 1);
    const auto mean = sums.narrow(3, 0, width) / count;
    const auto second = moments_.narrow(3, 0, width).narrow(4, 0, width) / count.unsqueeze(4);
    const auto covariance = second - mean.unsqueeze(4) * mean.unsqueeze(3);
    const auto turn = ahead(rows.at, width);  // [batch, heads, 1, width, width]
    const auto mean_ahead = torch::matmul(turn, mean.unsqueeze(4)) * scale_;
    const auto spread = torch::matmul(torch::matmul(turn, covariance), turn.transpose(3, 4));
    const auto by_mean = torch::matmul(keys, mean_ahead).squeeze(4);
    const auto by_spread = (torch::matmul(keys, spread) * keys).sum(4) * (scale_ * scale_ / 2);
    const auto hidden = rows.at.lt(0).unsqueeze(2);
    const auto weights = torch::softmax((by_mean + by_spread).masked_fill(hidden, -INFINITY), 3);
    return reduced(weights, config_.group_reduce);
  }

  /// The queries of a prompt are not part of the cache.
  void end_step() override { moments_.reset(); }
  int64_t state_bytes() const override { return bytes_of({moments_}); }
  void clear() override { moments_.reset(); }
  std::unique_ptr<RetentionPolicy> clone() const override {
    return std::make_unique<Expected>(*this);
  }

 private:
  /// The mean of the rotations to the tokens that follow, [batch, heads, 1, width, width].
  at::Tensor ahead(const at::Tensor& at, int64_t width) const {
    if (facts_.rope_theta == 0)  // a layer without positions
      return torch::eye(width, at.options().dtype(torch::kFloat)).view({1, 1, 1, width, width});
    const auto first = at.amax(2, /*keepdim=*/true) + 1;
    const auto positions =
        Positions::scattered(first + torch::arange(config_.future_tokens, first.options()));
    const auto [cosines, sines] = positions.rotary(facts_.rope_theta, width);
    const auto cosine = torch::diag_embed(cosines.mean(2)), sine = torch::diag_embed(sines.mean(2));
    const auto upper = torch::cat({cosine, -sine}, 3), lower = torch::cat({sine, cosine}, 3);
    return torch::cat({upper, lower}, 2).unsqueeze(2);
  }

  CacheConfig config_;
  LayerFacts facts_;
  at::Tensor moments_;  ///< [batch, heads, group, width + 1, width + 1]
  double scale_ = 1;
};

}  // namespace

std::unique_ptr<RetentionPolicy> make_expected(const CacheConfig& config, const LayerFacts& facts) {
  return std::make_unique<Expected>(config, facts);
}

}  // namespace kvsmith
