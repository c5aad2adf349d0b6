#pragma once

#include <string>

#include "core/fields.h"

namespace kvsmith {

/// Learning which of two answers is preferred (DPO, arXiv:2305.18290), against a frozen reference.
struct PreferenceConfig {
  std::string method = "none";
  double beta = 0.1;
  double label_smoothing = 0;  ///< share of pairs that are taken to be the wrong way round
  std::string reference;
  std::string cache;  ///< directory

  bool is_wanted() const { return method != "none"; }
  /// Log-probabilities are means over the tokens of an answer (arXiv:2411.15124), not sums.
  bool is_normalised() const { return method == "dpo_norm"; }

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(Key{.name = "method",
              .help = "learn from pairs of answers: dpo (arXiv:2305.18290), or dpo_norm, the same "
                      "with the mean log-probability of an answer's tokens in the place of their "
                      "sum (arXiv:2411.15124); none: learn next tokens",
              .choices = {"none", "dpo", "dpo_norm"}},
          self.method);
    visit(Key{.name = "beta",
              .help = "the loss is -log sigmoid(beta * (how much likelier than to the reference "
                      "the chosen answer is, less the same of the rejected)); 0.1 is usual for "
                      "dpo, 5 for dpo_norm (Tulu 3)",
              .min = 1e-6,
              .max = 1e6},
          self.beta);
    visit(Key{.name = "label_smoothing",
              .help = "share of pairs that are taken to be the wrong way round (conservative DPO)",
              .min = 0,
              .max = 0.5},
          self.label_smoothing);
    visit(Key{.name = "reference",
              .help = "run, checkpoint or exported model, with the same token ids, that stays as "
                      "it is; empty: the model of train.init_from, with lora.rank the model "
                      "without its adapter"},
          self.reference);
    visit(Key{.name = "cache",
              .help = "directory where the reference's log-probabilities are kept: it is asked "
                      "once about every pair, before the first step, and needs no memory "
                      "afterwards; empty: it is asked in each step",
              .shapes_result = false},
          self.cache);
  }

  bool operator==(const PreferenceConfig&) const = default;
};

}  // namespace kvsmith
