#pragma once

#include <string>

#include "core/fields.h"

namespace kvsmith {

/// Learning from a model with a larger cache, usually the one that this model was converted from.
struct DistillConfig {
  std::string teacher;
  double weight = 0.9;     ///< of the teacher's distribution against the text's next token
  double temperature = 1;  ///< both distributions are softened by it
  double mixer_loss = 0;   ///< weight
  int64_t top_k = 0;       ///< 0: all tokens
  std::string cache;       ///< directory

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(Key{.name = "teacher",
              .help = "run, checkpoint or exported model, with the same token ids, whose "
                      "predictions are learnt; empty: none"},
          self.teacher);
    visit(Key{.name = "weight",
              .help = "share of the teacher: the loss is (1 - weight) * cross-entropy + weight * "
                      "temperature^2 * KL(teacher || model)",
              .min = 0,
              .max = 1},
          self.weight);
    visit(Key{.name = "temperature",
              .help = "divides the logits of both in the KL divergence",
              .min = 0.01,
              .max = 100},
          self.temperature);
    visit(
        Key{.name = "mixer_loss",
            .help = "weight of the squared difference between what the attention of each layer "
                    "gives and what the teacher's gives, over the latter's square, mean of layers",
            .min = 0,
            .max = 1e6},
        self.mixer_loss);
    visit(Key{.name = "top_k",
              .help = "learn the teacher's probabilities of so many likeliest tokens, and of all "
                      "others their sum; 0: of every token",
              .min = 0,
              .max = 65536},
          self.top_k);
    visit(Key{.name = "cache",
              .help = "directory where the likeliest tokens are kept, so that further runs over "
                      "the same texts need not run the teacher; empty: nowhere",
              .shapes_result = false},
          self.cache);
  }

  bool operator==(const DistillConfig&) const = default;
};

}  // namespace kvsmith
