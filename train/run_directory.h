#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "checkpoints/store.h"
#include "train/run.h"

namespace kvsmith {

/// The checkpoint that a run is to continue, by `options.resume`; none: it starts from step 0.
/// Changes nothing. Tells `note` about damaged checkpoints that are passed over. Throws Error: 73
/// when the directory holds an earlier run or newer checkpoints and `options.force` is not set; 65
/// when the checkpoint that was asked for is damaged, or all are.
std::optional<CheckpointInfo> checkpoint_to_continue(
    const CheckpointStore& store,
    const RunOptions& options,
    const std::function<void(const std::string&)>& note);

/// Leaves nothing of a future that a run has gone back from: checkpoints after `step`, and, where
/// it starts over, everything else that describes the earlier run.
void drop_newer(const CheckpointStore& store, const RunOptions& options, int64_t step);

}  // namespace kvsmith
