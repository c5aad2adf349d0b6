#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include "configs/latent_config.h"

namespace kvsmith {

/// DeepSeek's latent layers (`rope_interleave`) rotate pairs of neighbouring rows (2 i, 2 i + 1);
/// ours, like Llama's, rows (i, i + half). Reorders the rows of `weight` [out, in] that make
/// rotated queries and keys, which leaves all scores as they were; tensors of other names are
/// returned unchanged. And back.
at::Tensor from_interleaved_rows(const std::string& name,
                                 const at::Tensor& weight,
                                 const LatentConfig& sizes);
at::Tensor to_interleaved_rows(const std::string& name,
                               const at::Tensor& weight,
                               const LatentConfig& sizes);

/// ggml's `llama` rotates neighbouring pairs too. Reorders the rows of a weight or bias that makes
/// queries or keys, [heads * head_dim, ...]; tensors of other names are returned unchanged. And
/// back.
at::Tensor from_interleaved_heads(const std::string& name,
                                  const at::Tensor& tensor,
                                  int64_t head_dim);
at::Tensor to_interleaved_heads(const std::string& name,
                                const at::Tensor& tensor,
                                int64_t head_dim);

}  // namespace kvsmith
