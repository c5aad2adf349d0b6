#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/fields.h"

namespace kvsmith {

/// A grid of evaluations: every checkpoint with every method, budget, codec, context and seed.
struct SweepConfig {
  std::vector<std::string> checkpoints;
  std::string corpus;
  std::string split = "valid";
  std::vector<std::string> methods = {"full"};
  std::vector<double> budgets = {0.5};
  std::vector<std::string> codecs = {"model"};
  std::vector<int64_t> contexts = {0};
  std::vector<int64_t> seeds = {0};
  std::string protocol = "decode";
  int64_t prefill = 0;
  int64_t chunk = 64;
  int64_t max_tokens = 65536;
  int64_t batch = 16;
  std::vector<std::string> probes;
  std::vector<int64_t> probe_lengths;
  int64_t probe_samples = 8;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(Key{.name = "checkpoints", .help = "runs, checkpoints or exported models"},
          self.checkpoints);
    visit(Key{.name = "corpus", .help = "corpus file made by `data build`"}, self.corpus);
    visit(Key{.name = "split", .help = "split to score"}, self.split);
    visit(Key{.name = "methods",
              .help = "words of --cache, such as \"keyformer\" or \"h2o protect_sinks=1\"; full: "
                      "every row stays"},
          self.methods);
    visit(Key{.name = "budgets",
              .help = "of methods that drop rows: up to 1 a share of the context, above it tokens",
              .min = 1e-6},
          self.budgets);
    visit(Key{.name = "codecs",
              .help = "how rows are stored: model (as computed), \"q8_0\", \"q8_0/q4_0\" (keys/"
                      "values) ..."},
          self.codecs);
    visit(Key{.name = "contexts", .help = "tokens a window; 0: max_position_embeddings", .min = 0},
          self.contexts);
    visit(Key{.name = "seeds", .help = "of methods that draw", .min = 0}, self.seeds);
    visit(Key{.name = "protocol",
              .help = "how texts are scored",
              .choices = {"decode", "prefill_continue", "chunked", "replay"}},
          self.protocol);
    visit(Key{.name = "prefill",
              .help = "see evaluate --prefill; -256: all of the context but the last 256 tokens",
              .min = -(1 << 24)},
          self.prefill);
    visit(Key{.name = "chunk", .help = "see evaluate --chunk", .min = 1}, self.chunk);
    visit(Key{.name = "max_tokens", .help = "tokens to score; 0: all", .min = 0}, self.max_tokens);
    visit(Key{.name = "batch", .help = "windows side by side", .min = 1}, self.batch);
    visit(Key{.name = "probes", .help = "see evaluate --probe"}, self.probes);
    visit(Key{.name = "probe_lengths", .help = "tokens of a probe; none: the context", .min = 1},
          self.probe_lengths);
    visit(Key{.name = "probe_samples", .help = "samples of a probe's point", .min = 1},
          self.probe_samples);
  }
  bool operator==(const SweepConfig&) const = default;
};

}  // namespace kvsmith
