#include "checkpoints/rotary_rows.h"

#include <torch/types.h>

namespace kvsmith {
namespace {

bool makes_queries_or_keys(const std::string& name) {
  return name.find(".q_proj.") != name.npos || name.find(".k_proj.") != name.npos;
}

/// Views each block of rotated rows as `shape`, whose dimensions swap places.
at::Tensor reordered(const std::string& name,
                     const at::Tensor& weight,
                     const LatentConfig& sizes,
                     at::IntArrayRef shape) {
  const int64_t rotated = sizes.qk_rope_head_dim;
  // a matrix is a stack of blocks, each with rows that stay before those that are rotated
  const bool is_query = name.ends_with(".q_proj.weight") || name.ends_with(".q_b_proj.weight");
  const bool is_key = name.ends_with(".kv_a_proj_with_mqa.weight");
  if (!is_query && !is_key) return weight;
  const int64_t kept = is_query ? sizes.qk_nope_head_dim : sizes.kv_lora_rank;
  const auto blocks = weight.unflatten(0, {-1, kept + rotated});
  const auto swapped =
      blocks.narrow(1, kept, rotated).unflatten(1, shape).transpose(1, 2).flatten(1, 2);
  return torch::cat({blocks.narrow(1, 0, kept), swapped}, 1).flatten(0, 1);
}

}  // namespace

at::Tensor from_interleaved_rows(const std::string& name,
                                 const at::Tensor& weight,
                                 const LatentConfig& sizes) {
  return reordered(name, weight, sizes, {sizes.qk_rope_head_dim / 2, 2});
}

at::Tensor to_interleaved_rows(const std::string& name,
                               const at::Tensor& weight,
                               const LatentConfig& sizes) {
  return reordered(name, weight, sizes, {2, sizes.qk_rope_head_dim / 2});
}

at::Tensor from_interleaved_heads(const std::string& name,
                                  const at::Tensor& tensor,
                                  int64_t head_dim) {
  if (!makes_queries_or_keys(name)) return tensor;
  return tensor.unflatten(0, {-1, head_dim / 2, 2}).transpose(1, 2).flatten(0, 2);
}

at::Tensor to_interleaved_heads(const std::string& name,
                                const at::Tensor& tensor,
                                int64_t head_dim) {
  if (!makes_queries_or_keys(name)) return tensor;
  return tensor.unflatten(0, {-1, 2, head_dim / 2}).transpose(1, 2).flatten(0, 2);
}

}  // namespace kvsmith
