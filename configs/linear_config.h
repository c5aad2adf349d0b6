#pragma once

#include <cstdint>

#include "core/fields.h"

namespace kvsmith {

/// Layers with a recurrent state of fixed size: gated DeltaNet (arXiv:2412.06464), gated linear
/// attention (arXiv:2312.06635), gated slot attention (arXiv:2409.07146), ABC (arXiv:2110.02488).
struct LinearConfig {
  int64_t linear_num_heads = 0;        ///< heads, each with a state
  int64_t linear_head_dim = 0;         ///< elements of a head's key and of its value
  int64_t linear_conv_kernel_dim = 4;  ///< tokens
  int64_t num_slots = 64;              ///< slots per key/value head

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(Key{.name = "linear_num_heads",
              .help = "linear layers: heads, each with a state; 0 takes num_key_value_heads",
              .min = 0,
              .max = 4096},
          self.linear_num_heads);
    visit(Key{.name = "linear_head_dim",
              .help = "linear layers: width of keys and values of a head; 0 takes head_dim",
              .min = 0,
              .max = 4096},
          self.linear_head_dim);
    visit(Key{.name = "linear_conv_kernel_dim",
              .help = "gated_delta layers: tokens that the short convolution sees",
              .min = 1,
              .max = 64},
          self.linear_conv_kernel_dim);
    visit(Key{.name = "num_slots",
              .help = "slot layers (gsa, abc, bounded): slots per key/value head",
              .min = 0,
              .max = 1 << 16},
          self.num_slots);
  }
  bool operator==(const LinearConfig&) const = default;

  /// Elements of the keys, or of the values, of all heads of a token.
  int64_t inner_width() const { return linear_num_heads * linear_head_dim; }
  /// Elements of the states of all heads, a matrix [linear_head_dim, linear_head_dim] each.
  int64_t state_elements() const { return inner_width() * linear_head_dim; }
};

}  // namespace kvsmith
