#pragma once

#include <memory>

#include "models/mixer.h"

namespace kvsmith {

/// Of the norms of latents, whatever rms_norm_eps says: so in most Hugging Face classes.
inline constexpr double kLatentEps = 1e-6;

/// Latent attention. "latent" is MLA (arXiv:2405.04434): a row is one normed latent, from which
/// each head makes its keys and values, and one rotated key that all heads share. Parameters have
/// the names of Hugging Face's deepseek_v3 and youtu. "grouped_latent" is GLA-2 (arXiv:2505.21487):
/// the latent has two heads, and each serves half of the query heads. A layer that reads another's
/// rows makes keys and values of its own from them.
std::shared_ptr<Mixer> make_latent(const ModelConfig& config, const KvGraph& graph, int64_t layer);

/// kv_lora_rank + qk_rope_head_dim elements a row.
int64_t latent_cache_bytes(const ModelConfig& config,
                           const KvGraph& graph,
                           int64_t layer,
                           int64_t tokens,
                           int64_t element_bytes);

/// That of training, which expands keys and values.
MixerCost latent_cost(const ModelConfig& config,
                      const KvGraph& graph,
                      int64_t layer,
                      int64_t context);

}  // namespace kvsmith
