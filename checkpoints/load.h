#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "configs/model_config.h"
#include "data/tokenizer.h"
#include "models/decoder.h"

namespace kvsmith {

/// A model ready to run, whatever it was stored as.
struct LoadedModel {
  Decoder model{nullptr};
  std::optional<Tokenizer> tokenizer;
  int32_t bos_id = -1, eos_id = -1;
  std::vector<int32_t> end_ids;       ///< further tokens that end a text, such as a turn's end
  std::string name;                   ///< of the run or folder, for reports
  std::filesystem::path path;         ///< what was really read
  int64_t step = 0, tokens_seen = 0;  ///< 0 where unknown
};

struct LoadOptions {
  at::ScalarType type = at::kFloat;  ///< of weights, activations and cache
  at::Device device = at::kCPU;
};

/// Reads a run directory (its `latest` checkpoint), a checkpoint directory, a folder in Hugging
/// Face layout or that of the LCKV authors (safetensors, one file or sharded), a single file made
/// by `export --format kvsmith`, or a GGUF file. Every file of a checkpoint is compared with its
/// SHA-256 first. Throws Error 66 when there is nothing, 65 or 78 when it is damaged or does not
/// fit.
LoadedModel load_model(const std::filesystem::path& path, const LoadOptions& options = {});

}  // namespace kvsmith
