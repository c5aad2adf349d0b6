#include "checkpoints/export_peft.h"

#include <set>
#include <string>

#include <nlohmann/json.hpp>
#include <torch/types.h>

#include "checkpoints/hf_family.h"
#include "checkpoints/output_directory.h"
#include "checkpoints/own_checkpoint.h"
#include "checkpoints/tensor_file.h"
#include "core/error.h"
#include "core/files.h"
#include "core/text.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kPrefix = "base_model.model.";  // PEFT wraps the model twice

/// "model.layers.0.self_attn.q_proj" of "model.layers.0.self_attn.q_proj.lora_A.weight".
std::string map_of(const std::string& tensor) { return tensor.substr(0, tensor.find(".lora_")); }

Json adapter_config(const RunConfig& config, const std::set<std::string>& maps) {
  return {{"peft_type", "LORA"},
          {"task_type", "CAUSAL_LM"},
          {"base_model_name_or_path", config.train.init_from},
          {"r", config.lora.rank},
          {"lora_alpha", config.lora.alpha},
          {"lora_dropout", config.lora.dropout},
          {"target_modules", maps},
          {"bias", "none"},
          {"fan_in_fan_out", false},
          {"inference_mode", true}};
}

}  // namespace

uint64_t export_peft(const fs::path& run, const fs::path& output, bool force) {
  const OwnCheckpoint adapter = read_adapter_checkpoint(run);
  if (hf_family_of(adapter.config.model).is_latent) {
    throw Error(ExitCode::kConfig, {"Hugging Face's classes hold latent layers with other weights",
                                    run.string(), "`kvsmith merge` it, and export the model"});
  }
  const SafetensorsFile& file = *adapter.tensors;
  NamedTensors tensors;
  std::set<std::string> maps;
  for (const auto& [name, info] : file.tensors()) {
    tensors.emplace_back(kPrefix + name, load_tensor(file, info));
    maps.insert(map_of(name));
  }
  expect_output_directory(output, force, "adapter_config.json", "export");
  AtomicDirectory directory(output);
  const fs::path config_file = directory.path() / "adapter_config.json",
                 weights = directory.path() / "adapter_model.safetensors";
  write_file(config_file, adapter_config(adapter.config, maps).dump(2) + "\n");
  save_tensors(weights, tensors, {{"format", "pt"}});
  const SafetensorsFile written(weights);
  for (const auto& [name, value] : tensors) {
    if (torch::equal(load_tensor(written, *written.find(name)), value)) continue;
    throw Error(ExitCode::kInternal,
                {name + " is not what was read back", output.string(), "report this"});
  }
  const uint64_t bytes = fs::file_size(config_file) + fs::file_size(weights);
  directory.commit();
  return bytes;
}

}  // namespace kvsmith
