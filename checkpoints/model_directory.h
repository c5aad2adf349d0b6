#pragma once

#include <filesystem>
#include <optional>

#include <nlohmann/json.hpp>

#include "checkpoints/model_source.h"

namespace kvsmith {

/// Creates the parents of `output`. Throws Error (73) when it exists and `force` is not set, or
/// when it is a directory and not of an earlier model. Call before long work starts.
void expect_model_output(const std::filesystem::path& output, bool force);

/// Writes `source` as a checkpoint that no run wrote: model.safetensors, config.toml, the
/// tokenizer, state.json with `origin` (where the weights come from) and manifest.json. load_model,
/// train.init_from and export take such a directory. Tensors are read and written one at a time, in
/// the type they have in `source`, or in `type`. The directory appears under `output`, whose
/// parents are created, when it is complete. Throws Error 73 as expect_model_output(),
/// 78 when the tensors are not those of the configuration, 80 when
/// a value is not finite.
void write_model(const ModelSource& source,
                 const std::filesystem::path& output,
                 bool force,
                 const nlohmann::ordered_json& origin,
                 std::optional<at::ScalarType> type = {});

}  // namespace kvsmith
