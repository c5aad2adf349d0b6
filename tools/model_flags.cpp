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
  constexpr int64_t kMostPasses = int64_t{1} << 20;
  verb.add_option("--forward-passes", flags.forward_passes,
                  "of layers that read ahead (LCKV); default: the model's")
      ->check(CLI::Range(int64_t{0}, kMostPasses));
  verb.add_option("--backward-passes", flags.backward_passes,
                  "further passes, which training makes with gradient")
      ->check(CLI::Range(int64_t{1}, kMostPasses));
}

void add_cache_flag(CLI::App& verb, std::vector<std::string>& words) {
  verb.add_option("--cache", words,
                  "what is done to the cache: a preset (h2o, keyformer, kivi2 ...), a TOML file "
                  "with a section [cache], key=value; later ones win")
      ->take_all();
}

void add_adapter_flag(CLI::App& verb, std::vector<std::string>& words, const std::string& use) {
  verb.add_option("--adapter", words,
                  "NAME=RUN, or RUN: what a run with lora.rank learned for this model; may be "
                  "repeated" +
                      use)
      ->allow_extra_args(false);
}

LoadedModel load(const ModelFlags& flags) {
  TrainConfig runtime;
  runtime.precision = flags.dtype;
  runtime.device = flags.device;
  runtime.threads = flags.threads;
  configure_runtime(runtime);
  LoadedModel loaded = load_model(flags.checkpoint,
                                  {.type = compute_type_of(runtime), .device = device_of(runtime)});
  const auto& config = loaded.model->config();
  loaded.model->set_passes(
      flags.forward_passes < 0 ? config.forward_passes : flags.forward_passes,
      flags.backward_passes < 0 ? config.backward_passes : flags.backward_passes);
  return loaded;
}

}  // namespace kvsmith
