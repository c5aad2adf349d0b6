#include "models/state_memory.h"

#include <torch/types.h>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {

void StateMemory::advance(const Positions& positions, const std::vector<at::Tensor>& next) {
  const torch::NoGradGuard no_grad;
  if (positions.is_packed() || next.at(0).size(0) != batch_) {
    throw Error(ExitCode::kInternal,
                {cat("a batch of ", next[0].size(0), " sequences for ", batch_), "KvCache",
                 "make the cache for this batch"});
  }
  if (state_.empty())
    for (const auto& tensor : next) state_.push_back(torch::zeros_like(tensor));
  for (int64_t b = 0; b < batch_; ++b) {
    const Span& span = positions.span(b);
    int64_t& length = lengths_[static_cast<size_t>(b)];
    if (span.count == 0) continue;
    if (span.first != length) {
      throw Error(ExitCode::kInternal,
                  {cat("position ", span.first, " after ", length, " in a recurrent state"),
                   "KvCache", "a state cannot go back: fork() the cache before"});
    }
    length = span.end();
    for (size_t i = 0; i < next.size(); ++i) state_[i][b].copy_(next[i][b]);
  }
}

int64_t StateMemory::bytes_used() const { return bytes_of(state_); }

void StateMemory::clear() {
  state_.clear();
  lengths_.assign(lengths_.size(), 0);
}

std::unique_ptr<Memory> StateMemory::clone() const {
  auto out = std::make_unique<StateMemory>(*this);
  out->state_ = copies(state_);
  return out;
}

void WindowAndState::clear() {
  ring.clear();
  state.clear();
}

std::unique_ptr<Memory> WindowAndState::clone() const {
  auto out = std::make_unique<WindowAndState>(*this);
  out->ring = ring.copy();
  out->state = copies(state);
  return out;
}

}  // namespace kvsmith
