#pragma once

#include <memory>
#include <vector>

#include "configs/kv_graph.h"
#include "models/state_memory.h"

namespace kvsmith {

/// The states that several sequences have of one layer, each of batch 1, copied into one of a batch
/// for a step of one token each, and back.
class StackedStates {
 public:
  virtual ~StackedStates() = default;

  /// The memory of the batch, for the mixer; called once.
  virtual std::unique_ptr<Memory> stacked() = 0;
  /// Gives every sequence what the step has made of its part.
  virtual void hand_back() = 0;
};

/// members: all StateMemory, or all WindowAndState that have seen tokens. places: of the token of
/// each. Throws Error (70) for memories of another kind.
std::unique_ptr<StackedStates> stack_states(
    const LayerSpec& spec,
    const std::vector<Memory*>& members,
    const std::shared_ptr<const std::vector<Positions>>& places);

}  // namespace kvsmith
