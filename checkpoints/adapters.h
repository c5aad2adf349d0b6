#pragma once

#include <string>
#include <vector>

#include "checkpoints/load.h"

namespace kvsmith {

/// What runs with lora.rank have made of `base`. Each shares the weights of `base`, which are held
/// once, and has its adapter beside them (LoRA, arXiv:2106.09685); all else is as load_model()
/// gives it for the run. `words`: NAME=PATH, or a path alone, whose run gives the name. Throws
/// Error: 64 for a name that is taken and for what is no adapter; 65 or 66 as load_model(); 78 for
/// an adapter that was learned for other weights.
std::vector<LoadedModel> load_adapters(const LoadedModel& base,
                                       const std::vector<std::string>& words);

}  // namespace kvsmith
