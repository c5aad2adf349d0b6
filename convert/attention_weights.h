#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "convert/fit.h"
#include "models/decoder.h"

namespace kvsmith {

/// The projections of one attention layer, head by head, in fp64 on the CPU. `inputs` is
/// hidden_size, and one more, the bias, where projections have one.
struct AttentionWeights {
  std::vector<at::Tensor> queries;       ///< of each head, [inputs, head_dim]
  std::vector<at::Tensor> keys, values;  ///< of each key/value head, [inputs, head_dim]
  std::vector<at::Tensor> outputs;       ///< of each head, [head_dim, hidden_size]
  /// Weights of the norms of each head's keys and values, [head_dim]; undefined: there is none.
  at::Tensor key_norm, value_norm;

  /// Query heads that read key/value head `kv_head`.
  std::vector<size_t> readers(size_t kv_head) const;
  /// What an error of a head's keys costs: see Member.
  at::Tensor key_cost(size_t kv_head, const at::Tensor& input_moments) const;
  at::Tensor value_cost(size_t kv_head) const;
  /// Multiplies the queries that read `kv_head` by `turn`: see SharedKeys.
  void turn_queries(size_t kv_head, const at::Tensor& turn);
  /// Lets the outputs of heads that read `kv_head` begin with `readout`: see SharedSubspace.
  void read_out(size_t kv_head, const at::Tensor& readout);
};

/// Of every layer of a model whose layers are full or sliding and have keys and values of their
/// own.
std::vector<AttentionWeights> read_attention(const DecoderImpl& model);

/// [inputs, width] of several heads as the weight (and bias) of a Linear, under `name`.
void write_projection(std::map<std::string, at::Tensor>& out,
                      const std::string& name,
                      const std::vector<at::Tensor>& heads,
                      int64_t hidden_size);

/// The outputs as the weight of o_proj; `mixer`: "model.layers.3.self_attn.".
void write_outputs(std::map<std::string, at::Tensor>& out,
                   const std::string& mixer,
                   const AttentionWeights& weights);

/// "model.layers.3.self_attn."
std::string mixer_name(int64_t layer);

}  // namespace kvsmith
