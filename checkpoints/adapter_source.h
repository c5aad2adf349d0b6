#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "checkpoints/model_source.h"
#include "configs/lora_config.h"
#include "core/safetensors.h"

namespace kvsmith {

/// SHA-256 over names and values of all tensors: which weights an adapter was learned for.
std::string fingerprint(const ModelSource& source);

/// SHA-256 over the weights with this fingerprint and all of `config` that shapes what is computed:
/// equal tensors make different models under different KV graphs.
std::string fingerprint(const std::string& weights, const ModelConfig& config);

/// Throws Error (78), naming `where`, when an adapter that was learned under `config` would run as
/// another model above `base`: with other windows or sources, say, which no tensor tells.
void expect_same_model(const ModelConfig& config,
                       const ModelConfig& base,
                       const std::string& where);

/// The tensors of `base` with what the adapter in `file` adds to them (LoRA, arXiv:2106.09685), in
/// fp32 where it adds something. Everything else is that of `base`. Throws Error (65), naming
/// `where`, for adapter tensors that fit no tensor of `base`.
ModelSource with_adapter(ModelSource base,
                         const std::shared_ptr<const SafetensorsFile>& file,
                         const LoraConfig& config,
                         const std::filesystem::path& where);

}  // namespace kvsmith
