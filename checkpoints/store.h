#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "checkpoints/tensor_file.h"
#include "configs/run_config.h"

namespace kvsmith {

/// Everything a resumed run needs. Randomness is stateless, so there is no generator state.
struct Snapshot {
  RunConfig config;
  NamedTensors weights, optimizer;
  std::string tokenizer;         ///< the model file; empty when the corpus has none
  nlohmann::ordered_json state;  ///< step, tokens, sampler position, counters
};

/// What is kept besides the newest checkpoints.
struct Retention {
  int64_t keep_last = 3, keep_every = 0;
  bool keep_best = true;
};

/// A checkpoint directory and what its manifest says.
struct CheckpointInfo {
  std::filesystem::path path;
  int64_t step = 0;
  bool complete = false;
  std::string problem;  ///< why it is not complete
  uint64_t bytes = 0;
  nlohmann::ordered_json state;
};

/// The checkpoints of one run directory: `step-000001000/` with model.safetensors,
/// optimizer.safetensors, state.json, config.toml, tokenizer.model and manifest.json (a SHA-256 per
/// file, written last), and the links `latest` and `best`. A directory appears under its name only
/// when it is complete and synced; a process killed at any instant leaves the older ones intact.
class CheckpointStore {
 public:
  explicit CheckpointStore(std::filesystem::path run);

  /// Publishes a checkpoint and moves `latest` (and `best`).
  std::filesystem::path save(const Snapshot& snapshot, int64_t step, bool is_best);
  /// Makes `latest` name `newest`, and `best` the checkpoint that was the best by then, if it is
  /// still there: a save may have been interrupted before, or a run gone back. Does nothing where
  /// `newest` is of another run.
  void mend_links(const CheckpointInfo& newest);
  /// Removes complete checkpoints up to `step`, the newest, that `retention` lets go.
  void retire(const Retention& retention, int64_t step);

  /// Newest first, complete or not.
  std::vector<CheckpointInfo> list() const;
  /// The newest checkpoint whose files match their hashes; tells `on_skip` about newer ones that do
  /// not. Throws Error (65) when there are checkpoints and all of them are bad.
  std::optional<CheckpointInfo> newest(
      const std::function<void(const CheckpointInfo&)>& on_skip = {}) const;

 private:
  std::filesystem::path run_;
};

/// Reads a checkpoint's manifest and state; with `check_hashes` also every byte. Problems are in
/// the result, not thrown.
CheckpointInfo inspect_checkpoint(const std::filesystem::path& directory, bool check_hashes);

/// Writes manifest.json, with bytes and SHA-256 of every other file in `directory`: the last thing
/// that a checkpoint needs to be complete.
void write_manifest(const std::filesystem::path& directory, int64_t step);

/// A name such as step-000001000.
std::string checkpoint_name(int64_t step);

}  // namespace kvsmith
