#include "train/device.h"

#include <algorithm>
#include <cstdlib>
#include <thread>

#include <ATen/Parallel.h>
#include <torch/cuda.h>
#include <torch/types.h>
#include <torch/version.h>

#include "core/error.h"
#include "core/stopwatch.h"

namespace kvsmith {

at::Device device_of(const TrainConfig& config) {
  if (config.device == "cpu") return at::kCPU;
  if (torch::cuda::is_available()) return at::kCUDA;
  if (config.device == "auto") return at::kCPU;
  throw Error(ExitCode::kConfig,
              {"no usable GPU", "train.device = \"cuda\"", "choose \"auto\" or \"cpu\""});
}

at::ScalarType compute_type_of(const TrainConfig& config) {
  return config.precision == "bf16" ? at::kBFloat16 : at::kFloat;
}

void configure_runtime(const TrainConfig& config) {
  const auto cores = static_cast<int64_t>(std::max(1U, std::thread::hardware_concurrency()));
  at::set_num_threads(static_cast<int>(config.threads > 0 ? config.threads : cores));
  // cuBLAS reads this when the GPU is first used
  if (config.deterministic) setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  auto& context = at::globalContext();
  context.setDeterministicAlgorithms(config.deterministic, /*warn_only=*/false);
  if (config.deterministic) {
    context.setBenchmarkCuDNN(false);
    context.setDeterministicCuDNN(true);
  }
}

nlohmann::ordered_json runtime_environment(at::Device device) {
  return {{"threads", at::get_num_threads()},
          {"cpu_capability", at::get_cpu_capability()},
          {"libtorch", TORCH_VERSION},
          {"device", device.str()}};
}

double measure_peak_flops(at::Device device, at::ScalarType type) {
  const torch::NoGradGuard no_grad;
  const int64_t n = device.is_cuda() ? 8192 : 1024;
  const auto options = torch::dtype(type).device(device);
  const auto a = torch::ones({n, n}, options), b = torch::ones({n, n}, options);
  double best = 0;
  for (int trial = 0; trial < 4; ++trial) {  // the first one warms up
    const Stopwatch watch;
    torch::matmul(a, b);
    if (device.is_cuda()) torch::cuda::synchronize();
    best = std::max(best, 2.0 * static_cast<double>(n * n * n) / watch.seconds());
  }
  return best;
}

}  // namespace kvsmith
