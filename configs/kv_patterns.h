#pragma once

#include <string>
#include <vector>

#include "configs/model_config.h"

namespace kvsmith {

/// The per-layer lists that a name stands for. Empty lists leave the default.
struct LayerLists {
  std::vector<std::string> types;
  std::vector<int64_t> k_sources, v_sources;
};

/// Expands `config.pattern`, which is not empty. A problem is appended when there is no such
/// pattern or when it does not fit the other keys.
LayerLists expand_pattern(const ModelConfig& config, std::vector<KeyProblem>& problems);

/// Expands the `layer_types` string of the LCKV authors' configurations: "0_4s_4_4_4_5" lists the
/// layer whose keys and values each layer reads, `s` marks a sliding window.
LayerLists parse_lckv_layers(const std::string& text, std::vector<KeyProblem>& problems);

}  // namespace kvsmith
