#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/model_source.h"
#include "checkpoints/store.h"
#include "configs/run_config.h"
#include "core/safetensors.h"

namespace kvsmith {

/// A checkpoint directory of ours, whose tensors are those of a model, or with lora.rank those of
/// an adapter alone.
struct OwnCheckpoint {
  CheckpointInfo info;
  RunConfig config;
  std::shared_ptr<const SafetensorsFile> tensors;

  /// Fingerprint of the weights that the adapter was learned for.
  std::string base() const { return info.state.value("base", std::string()); }
};

/// The directory that `path` stands for now: itself, or that of the latest checkpoint of a run.
/// None where it is neither.
std::optional<std::filesystem::path> own_checkpoint(const std::filesystem::path& path);

/// Reads all but the tensors, after comparing every file with its SHA-256. Throws Error (65).
OwnCheckpoint read_own_checkpoint(const std::filesystem::path& directory);

/// The same of the checkpoint of an adapter that `path` stands for; what it adapts is not read.
/// Throws Error besides: 66 where nothing is there, 64 where it is no adapter.
OwnCheckpoint read_adapter_checkpoint(const std::filesystem::path& path);

/// Key of token_ids_json() in the header of a single file.
inline constexpr const char* kTokenIds = "kvsmith.token_ids";

/// What a state file, or the header of a single file, says of the tokens that begin and end texts;
/// -1: none.
nlohmann::ordered_json token_ids_json(int32_t bos_id,
                                      int32_t eos_id,
                                      const std::vector<int32_t>& end_ids);

/// Says of `model` what the checkpoint says besides configuration and tensors: its name, its
/// tokenizer, the tokens that end a text.
void describe(ModelSource& model, const OwnCheckpoint& checkpoint);

}  // namespace kvsmith
