#pragma once

#include <memory>

#include "models/mixer.h"

namespace kvsmith {

/// Softmax attention with grouped heads whose keys and values are remembered as small codes
/// (KV-CAR): a layer's encoders take each head's key before the rotation and its value to
/// autoencoder_dim elements, its decoders give them back, for one step only, to every layer that
/// reads it. One encoder and decoder for the keys of all heads and one for the values. RMSNorm
/// stands where the authors have BatchNorm, which would let a token see the batch. Heads that the
/// layer reuses have no rows in k_proj and v_proj: the decoder puts them in from the layer below.
/// Its auxiliary loss is mean |decoded - key| + mean |decoded - value|, keys not rotated.
std::shared_ptr<Mixer> make_autoencoded(const ModelConfig& config,
                                        const KvGraph& graph,
                                        int64_t layer);

/// autoencoder_dim elements for the key and as many for the value of each token and key/value head
/// that is not reused.
int64_t autoencoded_cache_bytes(const ModelConfig& config,
                                const KvGraph& graph,
                                int64_t layer,
                                int64_t tokens,
                                int64_t element_bytes);

MixerCost autoencoded_cost(const ModelConfig& config,
                           const KvGraph& graph,
                           int64_t layer,
                           int64_t context);

}  // namespace kvsmith
