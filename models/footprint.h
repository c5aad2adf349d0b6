#pragma once

#include <cstdint>

#include "configs/run_config.h"

namespace kvsmith {

/// What a model costs, from the config alone. A test holds each figure against a running model.
struct ModelFootprint {
  int64_t parameters = 0;
  int64_t matmul_parameters = 0;  ///< multiplied once per token: all but the embedding and norms,
                                  ///< the tied matrix counted once as LM head
};
ModelFootprint model_footprint(const ModelConfig& config);

/// Floating-point operations of training per token in a sequence of `context` tokens. A forward
/// pass takes 2 * matmul_parameters + 4 * heads * head_dim * tokens seen, for each layer; the
/// second term is scores and weighted values, and without a window a query sees half the sequence
/// on average. Backward costs twice as much; what gradient checkpointing computes again is left
/// out, as in MFU. Layers of a cyclic slice count once for each pass, and passes without gradient
/// have no backward pass.
double training_flops_per_token(const ModelConfig& config, int64_t context);

/// Host or device bytes of training with AdamW, as if all parameters learned (`trainable`).
struct TrainingFootprint {
  int64_t weights = 0, gradients = 0, optimizer = 0;  ///< fp32
  int64_t activations = 0;  ///< kept for the backward pass of one micro-batch, loss included
  int64_t total() const { return weights + gradients + optimizer + activations; }
};
TrainingFootprint training_footprint(const RunConfig& config);

}  // namespace kvsmith
