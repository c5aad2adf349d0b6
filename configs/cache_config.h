#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/fields.h"

namespace kvsmith {

/// What is done to a KV cache while it runs, on top of the architecture that made it: which rows
/// stay, how many, and how they are stored.
struct CacheConfig {
  std::string retention = "full";
  int64_t budget_tokens = 0;
  double budget_fraction = 0;
  int64_t budget_bytes = 0;
  int64_t protect_sinks = 4;
  int64_t protect_recent = -1;
  std::string group_reduce = "mean";
  std::string allocator = "uniform";
  double pyramid_beta = 20;
  double ada_floor = 0.2;
  std::string evict = "after";
  std::string store = "auto";
  int64_t block_tokens = 16;
  std::string positions = "original";
  std::string codec_k = "model";
  std::string codec_v = "model";
  int64_t q_group_size = 32;
  int64_t residual_length = 128;
  std::vector<int64_t> full_precision_layers;
  bool quantise_before_attend = true;
  double alpha_high = 1;
  double alpha_low = 0.02;
  std::string coarse_k = "int4";
  std::string coarse_v = "int2";
  int64_t future_tokens = 512;
  int64_t merge_tokens = 32;
  std::string depth_merge = "none";
  int64_t merge_from = -1;
  double merge_t = 0.6;
  double merge_angle = 0.25;
  std::string duo_gates;
  double tau_init = 1;
  double tau_end = 1;
  int64_t tau_tokens = 256;
  int64_t observation_window = 32;
  int64_t pooling_kernel = 5;
  int64_t seed = 0;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(Key{.name = "retention",
              .help = "which rows stay once there are more than the budget: full (all), window, "
                      "streaming, h2o, tova, keyformer ..."},
          self.retention);
    visit(Key{.name = "budget_tokens",
              .help = "rows that a key/value head of a layer keeps on average",
              .min = 0},
          self.budget_tokens);
    visit(Key{.name = "budget_fraction",
              .help = "the same as a share of the context that is evaluated, or of the prompt and "
                      "the new tokens of `generate`",
              .min = 0,
              .max = 1},
          self.budget_fraction);
    visit(Key{.name = "budget_bytes",
              .help = "the same as bytes of all layers of one sequence, positions and scores "
                      "included",
              .min = 0},
          self.budget_bytes);
    visit(Key{.name = "protect_sinks", .help = "first tokens that always stay", .min = 0},
          self.protect_sinks);
    visit(Key{.name = "protect_recent",
              .help = "newest tokens that always stay; -1: the policy's own share of the budget, "
                      "or duo's window",
              .min = -1},
          self.protect_recent);
    visit(Key{.name = "group_reduce",
              .help = "how scores of the query heads that share a key/value head become one",
              .choices = {"mean", "max", "sum"}},
          self.group_reduce);
    visit(Key{.name = "allocator",
              .help = "how the budget is spread: uniform; pyramid: more for lower layers "
                      "(arXiv:2406.02069); ada: the heads of a layer share theirs "
                      "(arXiv:2407.11550)",
              .choices = {"uniform", "pyramid", "ada"}},
          self.allocator);
    visit(Key{.name = "pyramid_beta",
              .help = "pyramid: the highest layer gets 1 / pyramid_beta of the mean budget beyond "
                      "what is protected",
              .min = 1,
              .max = 1e6},
          self.pyramid_beta);
    visit(Key{.name = "ada_floor",
              .help = "ada: the share of its even budget that a head gets in any case",
              .min = 0,
              .max = 1},
          self.ada_floor);
    visit(
        Key{.name = "evict",
            .help = "when rows above the budget go: after attention, which so sees the new tokens "
                    "and the whole budget; before: room is made for new tokens first",
            .choices = {"after", "before"}},
        self.evict);
    visit(Key{.name = "store",
              .help = "dense: one tensor a layer, as long as its fullest head; paged: blocks of "
                      "block_tokens rows by head; auto: paged where heads keep different numbers "
                      "of rows",
              .choices = {"auto", "dense", "paged"}},
          self.store);
    visit(Key{.name = "block_tokens", .help = "paged: rows of a block", .min = 1, .max = 65536},
          self.block_tokens);
    visit(Key{.name = "positions",
              .help = "original: rows keep their place in the text; in_cache: they are numbered "
                      "by rank, turned from the stored key; in_cache_raw: the same from keys "
                      "stored without rotation",
              .choices = {"original", "in_cache", "in_cache_raw"}},
          self.positions);
    visit(Key{.name = "codec_k", .help = "how keys, or latents, are stored; model: as computed"},
          self.codec_k);
    visit(Key{.name = "codec_v", .help = "how values are stored; model: as computed"},
          self.codec_v);
    visit(Key{.name = "q_group_size",
              .help = "kivi codecs: tokens of a key channel, and channels of a value, that share a "
                      "scale",
              .min = 2,
              .max = 4096},
          self.q_group_size);
    visit(Key{.name = "residual_length",
              .help = "kivi codecs: newest tokens that are stored as computed; a multiple of "
                      "q_group_size",
              .min = 2,
              .max = 1 << 20},
          self.residual_length);
    visit(Key{.name = "full_precision_layers",
              .help = "layers whose rows are stored as computed",
              .min = 0},
          self.full_precision_layers);
    visit(Key{.name = "quantise_before_attend",
              .help = "new tokens attend to each other as stored, so that every score holds the "
                      "codec's error; false: as computed, as most published prefills do"},
          self.quantise_before_attend);
    visit(Key{.name = "alpha_high",
              .help = "leankv: rows with less than this share of even attention become coarse",
              .min = 0,
              .max = 1e6},
          self.alpha_high);
    visit(Key{.name = "alpha_low",
              .help = "leankv: rows with less than this share of even attention go",
              .min = 0,
              .max = 1e6},
          self.alpha_low);
    visit(Key{.name = "coarse_k", .help = "leankv: how keys of coarse rows are stored"},
          self.coarse_k);
    visit(Key{.name = "coarse_v", .help = "leankv: how values of coarse rows are stored"},
          self.coarse_v);
    visit(Key{.name = "future_tokens",
              .help = "expected: tokens ahead whose queries decide",
              .min = 1,
              .max = 1 << 16},
          self.future_tokens);
    visit(Key{.name = "merge_tokens",
              .help = "cam: tokens that share the value of one that goes",
              .min = 1},
          self.merge_tokens);
    visit(Key{.name = "depth_merge",
              .help = "minicache: rows of two neighbouring layers become one where they are alike",
              .choices = {"none", "minicache"}},
          self.depth_merge);
    visit(Key{.name = "merge_from",
              .help = "depth_merge: the first layer that is merged; -1: half of the layers",
              .min = -1},
          self.merge_from);
    visit(Key{.name = "merge_t",
              .help = "depth_merge: 0 takes the direction of the lower layer, 1 of the upper one",
              .min = 0,
              .max = 1},
          self.merge_t);
    visit(Key{.name = "merge_angle",
              .help = "depth_merge: rows further apart stay two; 1 is opposite",
              .min = 0,
              .max = 1},
          self.merge_angle);
    visit(Key{.name = "duo_gates", .help = "duo: the file that `kvsmith calibrate` wrote"},
          self.duo_gates);
    visit(Key{.name = "tau_init",
              .help = "keyformer: temperature of the scores of the prompt",
              .min = 1e-3,
              .max = 1e6},
          self.tau_init);
    visit(Key{.name = "tau_end",
              .help = "keyformer: temperature after tau_tokens generated tokens",
              .min = 1e-3,
              .max = 1e6},
          self.tau_end);
    visit(Key{.name = "tau_tokens", .help = "keyformer: see tau_end", .min = 1}, self.tau_tokens);
    visit(Key{.name = "observation_window",
              .help = "snapkv: last queries of the prompt, whose attention decides",
              .min = 1},
          self.observation_window);
    visit(Key{.name = "pooling_kernel",
              .help = "snapkv: neighbours that share a score; odd",
              .min = 1,
              .max = 1025},
          self.pooling_kernel);
    visit(Key{.name = "seed", .help = "of policies that draw", .min = 0}, self.seed);
  }
  bool operator==(const CacheConfig&) const = default;
};

}  // namespace kvsmith
