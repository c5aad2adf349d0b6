#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/fields.h"

namespace kvsmith {

/// A low-rank adapter (LoRA, arXiv:2106.09685) that learns in the place of the model's weights.
struct LoraConfig {
  int64_t rank = 0;  ///< 0: no adapter
  double alpha = 16;
  double dropout = 0;
  std::vector<std::string> targets = {"*.q_proj", "*.v_proj"};
  std::string base = "as_is";

  /// What the adapter's product is multiplied by.
  double scale() const { return alpha / static_cast<double>(rank); }

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(
        Key{.name = "rank",
            .help = "LoRA: rank of what is added to each target, which alone learns; 0: none, the "
                    "weights learn",
            .min = 0,
            .max = 65536},
        self.rank);
    visit(Key{.name = "alpha",
              .help = "what is added is multiplied by alpha / rank",
              .min = 1e-6,
              .max = 1e6},
          self.alpha);
    visit(Key{.name = "dropout",
              .help = "share of a target's input that the adapter does not see in a step",
              .min = 0,
              .max = 0.99},
          self.dropout);
    visit(Key{.name = "targets",
              .help = "names of linear maps that get an adapter, such as "
                      "model.layers.3.self_attn.q_proj; * stands for any text"},
          self.targets);
    visit(
        Key{.name = "base",
            .help = "how the frozen targets are held while the adapter learns: as_is (fp32), or in "
                    "blocks of 32 with one scale (QLoRA-style)",
            .choices = {"as_is", "q8_0", "q4_0"}},
        self.base);
  }
  bool operator==(const LoraConfig&) const = default;
};

}  // namespace kvsmith
