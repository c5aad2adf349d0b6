#pragma once

#include "models/memory.h"

namespace kvsmith {

constexpr int64_t kStateBytes = 4;  ///< of a number in a state: fp32

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

/// A ring of exact rows, keys unrotated, and a state of what has left it: the memory of layers that
/// see a window exactly and all before it in short.
class WindowAndState final : public Memory {
 public:
  WindowAndState(const CacheOptions& options, int64_t window, int64_t sinks)
      : ring(options, window, sinks) {}

  /// Nothing remembered yet, by any sequence.
  bool empty() const { return state.empty(); }
  int64_t bytes_used() const override { return ring.bytes_used() + bytes_of(state); }
  int64_t bytes_reserved() const override { return ring.bytes_reserved() + bytes_of(state); }
  void clear() override;
  std::unique_ptr<Memory> clone() const override;

  RingRows ring;
  std::vector<at::Tensor> state;  ///< each [batch, ...] fp32; none while empty
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
