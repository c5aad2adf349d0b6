#pragma once

#include <string>
#include <vector>

#include "core/fields.h"

namespace kvsmith {

/// Which texts a run learns from.
struct DataConfig {
  std::vector<std::string> corpus;         ///< paths
  std::vector<double> weights;             ///< one a corpus, in any unit, or empty
  std::string split = "train";             ///< of every corpus
  std::string validation_split = "valid";  ///< empty: no validation
  bool document_mask = false;              ///< no token sees another document
  std::string packing = "wrapped";         ///< documents into sequences

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(Key{.name = "corpus",
              .help = "corpus file or files made by `kvsmith data build`",
              .shapes_result = false},
          self.corpus);
    visit(Key{.name = "weights",
              .help = "how often each corpus is drawn from; empty: by its size",
              .min = 1e-9},
          self.weights);
    visit(Key{.name = "split", .help = "split to train on"}, self.split);
    visit(Key{.name = "validation_split",
              .help = "split to validate on, of the first corpus that has it; empty: no validation",
              .shapes_result = false},
          self.validation_split);
    visit(
        Key{.name = "document_mask",
            .help = "no token sees another document: block-diagonal attention, positions restart"},
        self.document_mask);
    visit(Key{.name = "packing",
              .help = "how documents fill sequences: wrapped, one after the other and cut where a "
                      "sequence ends; bfd, whole where they fit (best-fit decreasing), the rest "
                      "padding",
              .choices = {"wrapped", "bfd"}},
          self.packing);
  }

  bool operator==(const DataConfig&) const = default;
};

}  // namespace kvsmith
