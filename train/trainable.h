#pragma once

#include <string>
#include <vector>

#include "checkpoints/tensor_file.h"
#include "configs/run_config.h"
#include "models/decoder.h"

namespace kvsmith {

/// Lets learn what fits one of `patterns` (everything, where there are none), takes the gradient of
/// all else away, and returns what learns in registration order. Throws Error (78) for a pattern
/// that fits no parameter.
NamedTensors choose_trainable(DecoderImpl& model, const std::vector<std::string>& patterns);

/// `train.trainable`, or the parameters of adapters where the run learns these.
std::vector<std::string> trainable_of(const RunConfig& config);

/// "12.3K of 1.2M parameters learn, 24 of 98 tensors"; empty when all do.
std::string describe_trainable(const DecoderImpl& model);

/// Operations a token that frozen matrices spare: the products that would form their gradients,
/// each once however often its layer is run.
double spared_flops_per_token(const DecoderImpl& model);

}  // namespace kvsmith
