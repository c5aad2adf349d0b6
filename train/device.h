#pragma once

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

#include "configs/train_config.h"

namespace kvsmith {

/// The device that train.device names. Throws Error (78) for "cuda" where there is none.
at::Device device_of(const TrainConfig& config);
at::ScalarType compute_type_of(const TrainConfig& config);

/// Sets the thread count and, with train.deterministic, deterministic kernels, for the process.
void configure_runtime(const TrainConfig& config);

/// What bit-exact repetition depends on besides the configuration: threads, CPU capability,
/// LibTorch version, device.
nlohmann::ordered_json runtime_environment(at::Device device);

/// FLOP/s of a large matrix product in `type` on `device`: the yardstick of MFU where
/// train.peak_flops is not given. Takes well under a second.
double measure_peak_flops(at::Device device, at::ScalarType type);

}  // namespace kvsmith
