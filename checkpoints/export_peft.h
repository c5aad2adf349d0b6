#pragma once

#include <cstdint>
#include <filesystem>

namespace kvsmith {

/// Writes the adapter of a run, or of one of its checkpoints, that was trained with lora.rank: a
/// folder with adapter_config.json and adapter_model.safetensors, which PEFT puts onto what
/// export_hf() makes of the run's base. Reads it back before it appears under `output`. Returns its
/// bytes. Throws Error 64 for a run without adapter, 78 for a model that no class of transformers
/// holds as it is (latent layers, whose weights are rescaled, among them), 73 when `output` exists
/// and `force` is not set.
uint64_t export_peft(const std::filesystem::path& run,
                     const std::filesystem::path& output,
                     bool force);

}  // namespace kvsmith
