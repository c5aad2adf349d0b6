#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "cache/cache_plan.h"
#include "models/decoder.h"

namespace kvsmith {

/// How many tokens of a window go through the cache in each step.
std::vector<int64_t> step_lengths(int64_t tokens, int64_t prefill, int64_t chunk);

/// What a cache method does to a model, over the tokens that were scored. Bytes are of one
/// sequence.
class MethodScore {
 public:
  explicit MethodScore(CachePlan plan) : plan_(std::move(plan)) {}

  const CachePlan& plan() const { return plan_; }

  /// Reads `inputs`, [batch, seq], through a cache of the plan in these steps and scores `targets`,
  /// -1 where nothing is scored. Also reads them in one pass with everything kept, to compare.
  /// Returns the sum of losses. Throws Error (70) when measured bytes are not those of the formula.
  /// `for_replay`: remembers what is kept at every step.
  double read(DecoderImpl& model,
              const at::Tensor& inputs,
              const at::Tensor& targets,
              const std::vector<int64_t>& steps,
              bool for_replay = false);
  /// The text of the last read() in one pass in which every token sees what was kept for it.
  /// Only for plans without codecs and with original positions. Returns the sum of losses.
  double replay(DecoderImpl& model, const at::Tensor& inputs, const at::Tensor& targets);

  /// The keys that evaluation files have for a method; docs/evaluation.md.
  nlohmann::ordered_json json() const;

 private:
  struct Bin {
    int64_t from = 0, to = 0, tokens = 0;
    double nll = 0;
  };

  void score(const at::Tensor& logits,
             const at::Tensor& full_logits,
             const at::Tensor& target,
             int64_t position);
  void measure(const DecoderImpl& model, KvCache& cache, int64_t batch);
  /// Perplexity of the method, 95 % of paired bootstrap samples of windows.
  std::pair<double, double> interval() const;

  CachePlan plan_;
  double nll_ = 0, full_nll_ = 0, divergence_ = 0;
  int64_t tokens_ = 0, same_top_ = 0;
  std::vector<Bin> bins_;  ///< by position, [2^i, 2^(i+1))
  struct WindowLoss {
    double method = 0, full = 0, tokens = 0;
  };
  std::vector<WindowLoss> windows_;
  std::vector<std::shared_ptr<ReplayLog>> logs_;  ///< of the last batch
  double resident_sum_ = 0, read_sum_ = 0;
  int64_t measured_ = 0, resident_max_ = 0, peak_ = 0, end_tokens_ = 0;
  ByteLedger at_end_;  ///< of the longest batch, one sequence
};

}  // namespace kvsmith
