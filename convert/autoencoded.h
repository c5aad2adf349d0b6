#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "configs/model_config.h"
#include "convert/moments.h"

namespace kvsmith {

/// Encoders and decoders of an autoencoded layer of kind "linear", which all heads share: the
/// principal components of the keys and of the values (docs/architectures/autoencoded.md). Coders
/// of kind "mlp" are left to training. `keys` and `values`: of each layer that has them, the heads'
/// projections [inputs, head_dim]; `name`: "model.layers.3.self_attn.".
void fit_linear_coders(const ModelConfig& config,
                       const std::string& name,
                       int64_t layer,
                       const std::map<int64_t, std::vector<at::Tensor>>& keys,
                       const std::map<int64_t, std::vector<at::Tensor>>& values,
                       const Moments& moments,
                       std::map<std::string, at::Tensor>& out);

}  // namespace kvsmith
