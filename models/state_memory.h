#pragma once

#include "models/memory.h"

namespace kvsmith {

/// A fixed number of tensors per sequence however long the text: slots, recurrent states, tails of
/// convolutions. In generation they are updated in place, so neither their bytes nor their
/// addresses change after the first token.
class StateMemory final : public Memory {
 public:
  explicit StateMemory(const CacheOptions& options)
      : batch_(options.batch), lengths_(static_cast<size_t>(options.batch), 0) {}

  /// Nothing remembered yet, by any sequence.
  bool empty() const { return state_.empty(); }
  /// Each [batch, ...]; rows of sequences that have no tokens yet are zeros.
  const std::vector<at::Tensor>& state() const { return state_; }
  /// Takes the state after the tokens at `positions`, which must follow what each sequence has: a
  /// state cannot go back. Rows of sequences without new tokens keep theirs, whatever `next` says.
  /// Throws 70.
  void advance(const Positions& positions, const std::vector<at::Tensor>& next);

  int64_t bytes_used() const override;
  int64_t bytes_reserved() const override { return bytes_used(); }
  void clear() override;
  std::unique_ptr<Memory> clone() const override;

 private:
  int64_t batch_;
  std::vector<int64_t> lengths_;  ///< tokens seen per sequence
  std::vector<at::Tensor> state_;
};

/// The memory of a training step of such a layer: starts from nothing and keeps nothing.
class TransientState final : public Memory {
 public:
  int64_t bytes_used() const override { return 0; }
  int64_t bytes_reserved() const override { return 0; }
  void clear() override {}
  std::unique_ptr<Memory> clone() const override { return std::make_unique<TransientState>(); }
};

}  // namespace kvsmith
