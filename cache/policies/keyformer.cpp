#include "cache/policies/keyformer.h"

#include <torch/types.h>

#include "cache/noise.h"

namespace kvsmith {
namespace {

class Keyformer final : public RetentionPolicy {
 public:
  Keyformer(const CacheConfig& config, const LayerFacts& facts)
      : config_(config),
        keys_(head_keys(config.seed, "keyformer", facts.layer, facts.heads * facts.group)
                  .view({1, facts.heads, facts.group, 1, 1})) {}

  int64_t figures() const override { return 1; }
  bool watches() const override { return true; }

  void observe(const HeadScores& scores, const at::Tensor& tally) override {
    if (!prompt_end_.defined()) prompt_end_ = scores.last + 1;
    const auto queries = scores.queries.view({-1, 1, 1, scores.queries.size(1), 1});
    const auto rows = scores.rows.unsqueeze(2).unsqueeze(3);
    const auto noise = gumbel_of(mixed(keys_.to(queries.device()), queries), rows);
    const auto generated = (queries - prompt_end_.view({-1, 1, 1, 1, 1}) + 1).clamp_min(0);
    const auto progress =
        (generated.to(torch::kFloat) / static_cast<double>(config_.tau_tokens)).clamp_max(1);
    const auto tau = progress * (config_.tau_end - config_.tau_init) + config_.tau_init;
    const auto weights = torch::softmax((scores.logits + noise) / tau, -1);
    // a query that sees nothing, and padding
    const auto seen = torch::nan_to_num(weights, 0.0);
    tally.select(3, 0).add_(reduced(seen, config_.group_reduce).sum(2));
  }

  at::Tensor worth(const KeptRows& rows) const override { return rows.figures.select(3, 0); }
  void clear() override { prompt_end_.reset(); }
  std::unique_ptr<RetentionPolicy> clone() const override {
    return std::make_unique<Keyformer>(*this);
  }

 private:
  CacheConfig config_;
  at::Tensor keys_;        ///< [1, heads, group, 1, 1]
  at::Tensor prompt_end_;  ///< [batch|1]
};

}  // namespace

std::unique_ptr<RetentionPolicy> make_keyformer(const CacheConfig& config,
                                                const LayerFacts& facts) {
  return std::make_unique<Keyformer>(config, facts);
}

}  // namespace kvsmith
