#include "cache/policies/accumulated.h"

#include <torch/types.h>

namespace kvsmith {
namespace {

class H2o final : public RetentionPolicy {
 public:
  explicit H2o(const CacheConfig& config) : reduce_(config.group_reduce) {}

  int64_t figures() const override { return 1; }
  bool watches() const override { return true; }
  void observe(const HeadScores& scores, const at::Tensor& tally) override {
    tally.select(3, 0).add_(reduced(scores.weights, reduce_).sum(2));
  }
  at::Tensor worth(const KeptRows& rows) const override { return rows.figures.select(3, 0); }
  std::unique_ptr<RetentionPolicy> clone() const override { return std::make_unique<H2o>(*this); }

 private:
  std::string reduce_;
};

class Tova final : public RetentionPolicy {
 public:
  int64_t figures() const override { return 1; }
  bool watches() const override { return true; }
  void observe(const HeadScores& scores, const at::Tensor& tally) override {
    const auto is_last =
        scores.queries.eq(scores.last.unsqueeze(1)).view({-1, 1, 1, scores.queries.size(1), 1});
    tally.select(3, 0).add_((scores.weights * is_last).sum(3).mean({1, 2}).unsqueeze(1));
  }
  at::Tensor merged(const at::Tensor& /*figures*/, const at::Tensor& tally) const override {
    return tally;
  }
  at::Tensor worth(const KeptRows& rows) const override { return rows.figures.select(3, 0); }
  std::unique_ptr<RetentionPolicy> clone() const override { return std::make_unique<Tova>(*this); }
};

}  // namespace

std::unique_ptr<RetentionPolicy> make_h2o(const CacheConfig& config, const LayerFacts& /*facts*/) {
  return std::make_unique<H2o>(config);
}

std::unique_ptr<RetentionPolicy> make_tova(const CacheConfig& /*config*/,
                                           const LayerFacts& /*facts*/) {
  return std::make_unique<Tova>();
}

}  // namespace kvsmith
