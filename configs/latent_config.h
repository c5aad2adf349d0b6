#pragma once

#include <cstdint>

#include "core/fields.h"

namespace kvsmith {

/// Latent attention (MLA, arXiv:2405.04434) and its relatives.
struct LatentConfig {
  int64_t kv_lora_rank = 0;      ///< elements of a token's cached latent
  int64_t q_lora_rank = 0;       ///< elements of a compressed query; 0: not compressed
  int64_t qk_rope_head_dim = 0;  ///< elements of the rotated key that all heads share
  int64_t qk_nope_head_dim = 0;  ///< elements of a head's unrotated query and key
  int64_t v_head_dim = 0;        ///< elements of a head's value
  bool latent_norm = true;       ///< latents are normed before they are cached

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(Key{.name = "kv_lora_rank",
              .help = "latent layers: width of the cached latent, in grouped_latent layers of both "
                      "together; 0 takes 4 * head_dim",
              .min = 0,
              .max = 1 << 20},
          self.kv_lora_rank);
    visit(Key{.name = "q_lora_rank",
              .help = "latent layers: width that queries are compressed to; 0: not compressed",
              .min = 0,
              .max = 1 << 20},
          self.q_lora_rank);
    visit(Key{.name = "qk_rope_head_dim",
              .help = "latent and gta layers: width of the rotated key that all heads share; 0 "
                      "takes head_dim / 2",
              .min = 0,
              .max = 4096},
          self.qk_rope_head_dim);
    visit(Key{.name = "qk_nope_head_dim",
              .help = "latent layers: width of a head's unrotated query and key; 0 takes head_dim",
              .min = 0,
              .max = 4096},
          self.qk_nope_head_dim);
    visit(Key{.name = "v_head_dim",
              .help = "latent layers: width of a head's value; 0 takes head_dim",
              .min = 0,
              .max = 4096},
          self.v_head_dim);
    visit(Key{.name = "latent_norm",
              .help = "latent layers: RMSNorm on cached latents, as DeepSeek has it; without it a "
                      "conversion can begin where the source was"},
          self.latent_norm);
  }
  bool operator==(const LatentConfig&) const = default;
};

}  // namespace kvsmith
