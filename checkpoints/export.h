#pragma once

#include <cstdint>
#include <filesystem>

#include "checkpoints/load.h"

namespace kvsmith {

struct ExportReport {
  uint64_t bytes = 0;
  double max_logit_difference = 0;  ///< between the model and what was read back
};

/// Largest difference between the logits of two models on a fixed text; `b` is on the CPU.
double logit_difference(Decoder a, Decoder b);

/// Writes a folder that stock transformers loads with AutoModelForCausalLM and AutoTokenizer:
/// config.json, generation_config.json, model.safetensors (sharded above `shard_bytes`), tokenizer
/// files. Reads it back and compares logits before it appears under `output`, whose parents are
/// created. Throws Error (73) when `output` exists and `force` is not set, 70 when the logits
/// differ.
ExportReport export_hf(const LoadedModel& source,
                       const std::filesystem::path& output,
                       bool force,
                       uint64_t shard_bytes = 5'000'000'000);

/// The same in the layout of the LCKV authors, which holds layers that share keys and values; see
/// to_lckv_config.
ExportReport export_lckv(const LoadedModel& source,
                         const std::filesystem::path& output,
                         bool force,
                         uint64_t shard_bytes = 5'000'000'000);

/// Writes one safetensors file with weights, configuration and tokenizer, for inference only; as
/// above, it is read back before it appears.
ExportReport export_kvsmith(const LoadedModel& source,
                            const std::filesystem::path& output,
                            bool force);

}  // namespace kvsmith
