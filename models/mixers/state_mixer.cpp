#include "models/mixers/state_mixer.h"

#include <torch/types.h>

#include "models/state_memory.h"
#include "ops/layers.h"

namespace kvsmith {

at::Tensor StateMixer::step(const at::Tensor& x, const Positions& positions, Memory& memory) {
  if (x.size(1) == 0) return x;
  auto* kept = dynamic_cast<StateMemory*>(&memory);
  std::vector<at::Tensor> past(state_size());
  if (kept && !kept->empty()) past = kept->state();
  auto mixed = mix(x, positions, past);
  if (kept) kept->advance(positions, mixed.state);
  return mixed.out;
}

std::unique_ptr<Memory> StateMixer::make_cache(const CacheOptions& options) const {
  return std::make_unique<StateMemory>(options);
}

std::unique_ptr<Memory> StateMixer::make_transient() const {
  return std::make_unique<TransientState>();
}

at::Tensor state_heads(const at::Tensor& x, int64_t width) {
  return split_heads(x, width).to(torch::kFloat);
}

}  // namespace kvsmith
