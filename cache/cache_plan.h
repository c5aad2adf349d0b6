#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "cache/layer_plan.h"
#include "cache/replay.h"
#include "configs/cache_config.h"
#include "configs/head_gates.h"
#include "models/decoder.h"

namespace kvsmith {

/// A CacheConfig on one architecture: what every layer does with its rows. Layers whose memory has
/// a fixed size (windows, bounded memories, states) keep it; codecs apply to the rows of windows
/// too, and not to states, which are rewritten at every token.
class CachePlan {
 public:
  /// `context`: tokens that budget_fraction is a share of. `type`: of activations. Throws Error
  /// (78) for what cannot be combined, naming both options and the nearest legal setting.
  CachePlan(const CacheConfig& config,
            const ModelConfig& model,
            at::ScalarType type,
            int64_t context);

  /// A cache of `model` under this plan. `logs`, where given, gets a log for each layer that has a
  /// policy, at the layer's place. Throws Error (78) where heads have gates (DuoAttention) that
  /// were learned with other weights.
  KvCache make(const DecoderImpl& model,
               const CacheOptions& options,
               std::vector<std::shared_ptr<ReplayLog>>* logs = nullptr) const;
  /// The closed formula: bytes of one sequence after `tokens` tokens, of which the first `prompt`
  /// came in one step. The most there can be where depends_on_text().
  int64_t bytes(int64_t tokens, int64_t prompt = 0) const;
  bool depends_on_text() const;
  /// The plan of a layer; null where the layer keeps its own memory or owns none.
  const LayerPlan* of(int64_t layer) const { return layers_[static_cast<size_t>(layer)].get(); }
  /// Rows that a head keeps, mean over layers with a policy; 0: no policy.
  int64_t budget() const { return budget_; }
  const CacheConfig& config() const { return config_; }

 private:
  /// Gives the layers whose cache is to stop growing their budgets.
  void allocate(const RetentionKind& kind,
                const std::vector<LayerPlan*>& evicting,
                int64_t context);

  void read_gates(const std::vector<LayerPlan*>& evicting);
  void expect_gates_of(const DecoderImpl& model) const;

  CacheConfig config_;
  ModelConfig model_;
  KvGraph graph_;
  int64_t element_bytes_, budget_ = 0;
  std::optional<HeadGatesFile> gates_;
  mutable bool gates_are_of_model_ = false;  ///< checked once: hashing weights takes a second
  std::vector<std::shared_ptr<LayerPlan>> layers_;
};

}  // namespace kvsmith
