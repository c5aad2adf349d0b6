#pragma once

#include <functional>
#include <string>

#include "checkpoints/tensor_file.h"
#include "configs/run_config.h"
#include "models/decoder.h"

namespace kvsmith {

/// Gives `model`, which holds the weights of train.init_from, the adapter of config.lora, and holds
/// the adapted weights as lora.base says. Returns the fingerprint of what is adapted. Throws Error
/// (78) as add_adapters() and hold_coded().
std::string adapt(DecoderImpl& model,
                  const RunConfig& config,
                  const std::function<void(const std::string&)>& note);

/// What a checkpoint holds of `model`: of an adapted one the adapter alone.
NamedTensors saved_parameters(const DecoderImpl& model, const LoraConfig& config);

}  // namespace kvsmith
