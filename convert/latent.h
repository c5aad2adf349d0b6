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

/// Throws Error (78) when the sizes of the latent layers of `config` do not allow to convert to
/// them what `heads` key/value heads keep for one owner.
void check_latent_sizes(const ModelConfig& config, int64_t heads);

/// The parameters of latent attention (MLA) for layer `owner`, which keeps the latents, and for all
/// that read them.
///
/// Planes of all heads whose frequencies are nearest to one of the shared rotated key's are folded
/// into it (as FreqFold of TransMLA does, arXiv:2502.07864): there it has their first principal
/// component (fit_keys), each counting by how much of its rotation the common one follows on an
/// average over distances. What of the keys is left is cached without position, inside the latent,
/// as the mean over distances of what it should have been. Latents are the subspace of these rests
/// and the values that costs least.
///
/// The sizes are checked: check_latent_sizes().
void convert_to_latent(const ModelConfig& config,
                       int64_t owner,
                       double rope_theta,
                       const std::vector<LatentReader>& readers,
                       const Moments& moments,
                       std::map<std::string, at::Tensor>& out);

}  // namespace kvsmith
