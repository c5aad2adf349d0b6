#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include "models/decoder.h"

namespace kvsmith {

struct InitialWeights {
  std::string summary;  ///< "init_from runs/base: 74 tensors taken, 24 new (...), 0 unused"
  nlohmann::ordered_json token_ids;  ///< token_ids_json() of the source
};

/// Copies into `model` the parameters of the same name from the run, checkpoint, exported folder or
/// file at `path`; those that only `model` has stay as they are. Nothing is copied when it throws
/// Error: 66 or 65 where there is no checkpoint or it is damaged, 78 where a shape or the
/// vocabulary differs, or `tokenizer_sha256` (empty: unknown) is not that of the checkpoint.
InitialWeights init_from(DecoderImpl& model,
                         const std::filesystem::path& path,
                         const std::string& tokenizer_sha256);

/// Throws Error (78) naming `key` when `source` lies in the run directory `output`, whose old
/// checkpoints a run removes.
void expect_outside(const std::filesystem::path& source,
                    const std::filesystem::path& output,
                    const std::string& key);

}  // namespace kvsmith
