#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "configs/model_config.h"
#include "convert/attention_weights.h"
#include "convert/moments.h"

namespace kvsmith {

/// A layer that is to read latents, and its attention so far.
struct LatentReader {
  int64_t layer = 0;
  const AttentionWeights& attention;
};

/// The parameters of latent attention (MLA) for layer `owner`, which keeps the latents, and for all
/// that read them.
///
/// The shared rotated key takes every n-th rotary plane, n = head_dim / qk_rope_head_dim, whose
/// frequencies are just those of a key of that width (as MHA2MLA does, arXiv:2502.14837), and in
/// each the common key of all heads (fit_keys). What of the keys is left is cached without
/// position, inside the latent; each plane counts there by how much of its rotation survives an
/// average over distances. Latents are the subspace of these rests and the values that costs least.
///
/// Throws Error (78) when the sizes of the latent layers do not allow it.
void convert_to_latent(const ModelConfig& config,
                       int64_t owner,
                       double rope_theta,
                       const std::vector<LatentReader>& readers,
                       const Moments& moments,
                       std::map<std::string, at::Tensor>& out);

}  // namespace kvsmith
