#include "cache/policies/from_keys.h"

#include <torch/types.h>

namespace kvsmith {
namespace {

class Knorm final : public RetentionPolicy {
 public:
  int64_t figures() const override { return 1; }
  at::Tensor initial(const at::Tensor& keys) const override {
    return keys.to(torch::kFloat).norm(2, 3, /*keepdim=*/true).neg();
  }
  at::Tensor worth(const KeptRows& rows) const override { return rows.figures.select(3, 0); }
  std::unique_ptr<RetentionPolicy> clone() const override { return std::make_unique<Knorm>(*this); }
};

class KeyDiff final : public RetentionPolicy {
 public:
  at::Tensor worth(const KeptRows& rows) const override {
    const auto keys = rows.keys().to(torch::kFloat);
    const auto directions = keys / keys.norm(2, 3, /*keepdim=*/true).clamp_min(1e-12);
    const auto is_kept = rows.at.ge(0).unsqueeze(3);
    const auto mean = (directions * is_kept).sum(2, /*keepdim=*/true);
    return at::cosine_similarity(directions, mean, 3).neg();
  }
  std::unique_ptr<RetentionPolicy> clone() const override {
    return std::make_unique<KeyDiff>(*this);
  }
};

}  // namespace

std::unique_ptr<RetentionPolicy> make_knorm(const CacheConfig& /*config*/,
                                            const LayerFacts& /*facts*/) {
  return std::make_unique<Knorm>();
}

std::unique_ptr<RetentionPolicy> make_keydiff(const CacheConfig& /*config*/,
                                              const LayerFacts& /*facts*/) {
  return std::make_unique<KeyDiff>();
}

}  // namespace kvsmith
