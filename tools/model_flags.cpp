#include "tools/model_flags.h"

#include <CLI/CLI.hpp>

#include "train/device.h"

namespace kvsmith {

void add_model_flags(CLI::App& verb, ModelFlags& flags) {
  verb.add_option("checkpoint", flags.checkpoint,
                  "run directory, checkpoint, or exported folder or file")
      ->required();
  verb.add_option("--dtype", flags.dtype, "of weights, activations and cache")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  verb.add_option("--device", flags.device, "auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  verb.add_option("--threads", flags.threads, "CPU threads; 0: all cores")
      ->check(CLI::Range(0, 4096));
}

LoadedModel load(const ModelFlags& flags) {
  TrainConfig runtime;
  runtime.precision = flags.dtype;
  runtime.device = flags.device;
  runtime.threads = flags.threads;
  configure_runtime(runtime);
  return load_model(flags.checkpoint,
                    {.type = compute_type_of(runtime), .device = device_of(runtime)});
}

}  // namespace kvsmith
