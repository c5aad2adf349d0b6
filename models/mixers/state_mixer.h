#pragma once

#include <memory>
#include <vector>

#include "models/mixer.h"

namespace kvsmith {

/// A mixer that remembers a fixed number of tensors however long the text. It cannot go back, and
/// no other layer can read it.
class StateMixer : public Mixer {
 public:
  at::Tensor step(const at::Tensor& x, const Positions& positions, Memory& memory) final;
  std::unique_ptr<Memory> make_cache(const CacheOptions& options) const final;
  std::unique_ptr<Memory> make_transient() const final;

 protected:
  struct Mixed {
    at::Tensor out;                 ///< [batch, seq, hidden_size]
    std::vector<at::Tensor> state;  ///< after the last token, each [batch, ...]
  };

  /// x: [batch, seq, hidden_size]. `past`: the state before, as many tensors as state_size() and
  /// undefined where there is none. What it says of sequences that are empty before or have no new
  /// tokens is not used.
  virtual Mixed mix(const at::Tensor& x,
                    const Positions& positions,
                    const std::vector<at::Tensor>& past) = 0;
  virtual size_t state_size() const = 0;
};

/// [batch, seq, heads * width] -> [batch, heads, seq, width] fp32, in which states are computed.
at::Tensor state_heads(const at::Tensor& x, int64_t width);

}  // namespace kvsmith
