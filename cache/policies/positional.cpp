#include "cache/policies/positional.h"

#include <torch/types.h>

#include "cache/noise.h"

namespace kvsmith {
namespace {

class Recency final : public RetentionPolicy {
 public:
  at::Tensor worth(const KeptRows& rows) const override { return rows.at.to(torch::kFloat); }
  std::unique_ptr<RetentionPolicy> clone() const override {
    return std::make_unique<Recency>(*this);
  }
};

class Random final : public RetentionPolicy {
 public:
  Random(const CacheConfig& config, const LayerFacts& facts)
      : keys_(head_keys(config.seed, "random retention", facts.layer, facts.heads)) {}

  at::Tensor worth(const KeptRows& rows) const override {
    return uniform_of(keys_.to(rows.at.device()).view({1, -1, 1}), rows.at);
  }
  std::unique_ptr<RetentionPolicy> clone() const override {
    return std::make_unique<Random>(*this);
  }

 private:
  at::Tensor keys_;  ///< [heads]
};

}  // namespace

std::unique_ptr<RetentionPolicy> make_recency(const CacheConfig& /*config*/,
                                              const LayerFacts& /*facts*/) {
  return std::make_unique<Recency>();
}

std::unique_ptr<RetentionPolicy> make_random(const CacheConfig& config, const LayerFacts& facts) {
  return std::make_unique<Random>(config, facts);
}

}  // namespace kvsmith
