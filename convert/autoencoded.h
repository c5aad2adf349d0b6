#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace kvsmith {

/// Encoder and decoder of an autoencoded layer of kind "linear" for its keys or its values, which
/// all heads share: the `count` principal components (docs/architectures/autoencoded.md). Coders of
/// kind "mlp" are left to training.
///
/// `heads`: projections [inputs, head_dim]; `norm`: the weight of the RMSNorm behind them,
/// [head_dim], or undefined. Moments do not tell the size of each token's row, which the norm takes
/// away: here it is taken away from each head on average. `stream`: "model.layers.3.self_attn.k".
void fit_linear_coder(const std::string& stream,
                      const std::vector<at::Tensor>& heads,
                      const at::Tensor& norm,
                      const at::Tensor& input_moments,
                      int64_t count,
                      std::map<std::string, at::Tensor>& out);

}  // namespace kvsmith
