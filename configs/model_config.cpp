#include "configs/model_config.h"

#include "core/text.h"

namespace kvsmith {

void fill_in(ModelConfig& config) {
  if (config.num_key_value_heads == 0) config.num_key_value_heads = config.num_attention_heads;
  if (config.head_dim == 0) config.head_dim = config.hidden_size / config.num_attention_heads;
  if (config.intermediate_size == 0) {
    constexpr int64_t kMultiple = 64;  // keeps GEMM shapes aligned
    config.intermediate_size = (config.hidden_size * 8 / 3 + kMultiple - 1) / kMultiple * kMultiple;
  }
}

std::string architecture_name(const ModelConfig& config) {
  const int64_t heads = config.num_attention_heads, kv = config.num_key_value_heads;
  if (kv == heads) return cat("MHA ", heads);
  if (kv == 1) return cat("MQA ", heads);
  return cat("GQA ", heads, "/", kv);
}

}  // namespace kvsmith
