#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "configs/train_config.h"

namespace kvsmith {

/// AdamW (arXiv:1711.05101) through LibTorch's fused kernel. Matrices decay, vectors do not.
class AdamW {
 public:
  /// `parameters` are updated in place; their order and names are those of the saved state.
  AdamW(std::vector<std::pair<std::string, at::Tensor>> parameters, const TrainConfig& config);

  void step(double learning_rate);
  /// Updates done; the bias correction depends on it.
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

  /// "exp_avg.<parameter>" and "exp_avg_sq.<parameter>", aliases of the live state.
  std::vector<std::pair<std::string, at::Tensor>> state() const;

  /// Scales all gradients so that their global L2 norm is at most `max_norm` (0: leave them).
  /// Returns the norm before scaling.
  double clip_gradients(double max_norm);
  void zero_gradients();

 private:
  struct Group {
    std::vector<at::Tensor> parameters, exp_avg, exp_avg_sq;
    double weight_decay;
  };
  std::vector<at::Tensor> gradients(const Group& group) const;

  TrainConfig config_;
  std::vector<std::string> names_;
  std::vector<std::pair<size_t, size_t>> places_;  ///< of each name: group and index
  std::vector<Group> groups_;
  int64_t steps_ = 0;
};

}  // namespace kvsmith
