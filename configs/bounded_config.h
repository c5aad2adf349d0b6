#pragma once

#include <cstdint>
#include <string>

#include "core/fields.h"

namespace kvsmith {

/// Memory layers of predefined capacity: the first tokens, a window, and slots that absorb what
/// leaves it.
struct BoundedConfig {
  int64_t memory_capacity = 0;        ///< tokens of a key/value head
  int64_t memory_capacity_bytes = 0;  ///< of a layer and sequence
  std::string slot_mass = "convex";
  double slot_tau = 1;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(Key{.name = "memory_capacity",
              .help = "bounded layers: tokens that a key/value head may hold, num_sink_tokens + "
                      "window + num_slots; sets their window; 0: the window is sliding_window",
              .min = 0,
              .max = 1 << 28},
          self.memory_capacity);
    visit(Key{.name = "memory_capacity_bytes",
              .help = "bounded layers: the capacity as bytes of one layer and sequence, tokens as "
                      "bf16 and slots as fp32; instead of memory_capacity",
              .min = 0,
              .max = int64_t{1} << 40},
          self.memory_capacity_bytes);
    visit(Key{.name = "slot_mass",
              .help = "bounded layers: a slot weighs as one token (convex), or as many as it has "
                      "absorbed (count)",
              .choices = {"convex", "count"}},
          self.slot_mass);
    visit(Key{.name = "slot_tau",
              .help = "bounded layers: gates are taken to the power 1 / slot_tau",
              .min = 0.01,
              .max = 1000},
          self.slot_tau);
  }
  bool operator==(const BoundedConfig&) const = default;
};

}  // namespace kvsmith
