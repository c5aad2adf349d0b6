#include "cache/policies/snapkv.h"

#include <torch/types.h>

namespace kvsmith {
namespace {

class SnapKv final : public RetentionPolicy {
 public:
  explicit SnapKv(const CacheConfig& config) : config_(config) {}

  int64_t figures() const override { return 1; }
  bool watches() const override { return true; }

  void observe(const HeadScores& scores, const at::Tensor& tally) override {
    const auto from = scores.last.unsqueeze(1) - config_.observation_window;
    const auto observes = scores.queries.gt(from).view({-1, 1, 1, scores.queries.size(1), 1});
    tally.select(3, 0).add_(reduced((scores.weights * observes).sum(3), config_.group_reduce));
  }

  at::Tensor merged(const at::Tensor& /*figures*/, const at::Tensor& tally) const override {
    return tally;
  }

  at::Tensor worth(const KeptRows& rows) const override {
    const auto scores = rows.figures.select(3, 0);
    // neighbours in the text, whatever the order of slots; those of empty slots are zeros at its
    // end
    const auto order = torch::argsort(rows.at.masked_fill(rows.at.lt(0), INT64_MAX), int64_t{2});
    const auto in_text = scores.gather(2, order);
    const auto pooled = torch::avg_pool1d(in_text, config_.pooling_kernel, /*stride=*/1,
                                          /*padding=*/config_.pooling_kernel / 2);
    return torch::empty_like(scores).scatter_(2, order, pooled);
  }
  std::unique_ptr<RetentionPolicy> clone() const override {
    return std::make_unique<SnapKv>(*this);
  }

 private:
  CacheConfig config_;
};

}  // namespace

std::unique_ptr<RetentionPolicy> make_snapkv(const CacheConfig& config,
                                             const LayerFacts& /*facts*/) {
  return std::make_unique<SnapKv>(config);
}

}  // namespace kvsmith
