#include "models/mixers/autoencoded.h"

#include <array>

#include <torch/types.h>

#include "models/modules.h"
#include "ops/attention.h"
#include "ops/layers.h"

namespace kvsmith {
namespace {

enum Stream : size_t { kKeys = 0, kValues = 1 };

/// Half of an autoencoder: out(leaky_relu(norm(in(x)))), or out(x) where `hidden` is 0.
class CoderImpl : public torch::nn::Module {
 public:
  CoderImpl(int64_t in, int64_t hidden, int64_t out, double eps) {
    if (hidden > 0) {
      in_proj_ = register_module("in_proj", Linear(in, hidden, /*has_bias=*/true));
      norm_ = register_module("norm", RmsNorm(hidden, eps));
    }
    out_proj_ = register_module("out_proj", Linear(hidden > 0 ? hidden : in, out, hidden > 0));
  }

  at::Tensor forward(const at::Tensor& x) {
    return out_proj_(norm_ ? torch::leaky_relu(norm_(in_proj_(x))) : x);
  }

  /// A linear coder begins by leaving dimensions out, and its counterpart by adding zeros.
  void initialize_own() {
    if (!norm_)
      torch::eye_out(out_proj_->weight, out_proj_->weight.size(0), out_proj_->weight.size(1));
  }

 private:
  Linear in_proj_{nullptr}, out_proj_{nullptr};
  RmsNorm norm_{nullptr};
};
TORCH_MODULE(Coder);

int64_t inner_width(const ModelConfig& config) {
  return config.autoencoder.autoencoder_kind == "mlp" ? config.autoencoder.autoencoder_hidden : 0;
}

class Autoencoded final : public RowMixer {
 public:
  Autoencoded(const ModelConfig& config, const KvGraph& graph, int64_t layer)
      : config_(config), spec_(graph[layer]), strict_(graph.reads_ahead(layer)) {
    const int64_t width = config.hidden_size, query = config.num_attention_heads * config.head_dim;
    const int64_t key_heads = graph.key_heads(layer), value_heads = graph.value_heads(layer);
    const auto add = [&](const char* name, int64_t out) {
      return register_module(name, Linear(width, out, config.attention_bias));
    };
    const auto add_norm = [&](const char* name) {
      return register_module(name, RmsNorm(config.head_dim, config.rms_norm_eps));
    };
    const auto add_coders = [&](const std::string& stream, Coder& encoder, Coder& decoder) {
      const int64_t wide = config.head_dim, code = config.autoencoder.autoencoder_dim;
      const int64_t inner = inner_width(config);
      encoder = register_module(stream + "_encoder", Coder(wide, inner, code, config.rms_norm_eps));
      decoder = register_module(stream + "_decoder", Coder(code, inner, wide, config.rms_norm_eps));
    };
    q_proj_ = add("q_proj", query);
    if (config.qk_norm) q_norm_ = add_norm("q_norm");
    if (key_heads > 0) {
      k_proj_ = add("k_proj", key_heads * config.head_dim);
      if (config.qk_norm) k_norm_ = add_norm("k_norm");
      add_coders("k", k_encoder_, k_decoder_);
    }
    if (value_heads > 0) {
      v_proj_ = add("v_proj", value_heads * config.head_dim);
      add_coders("v", v_encoder_, v_decoder_);
    }
    o_proj_ = register_module("o_proj", Linear(query, width, /*has_bias=*/false));
  }

  void initialize_own() override {
    const torch::NoGradGuard no_grad;
    for (Coder coder : {k_encoder_, k_decoder_, v_encoder_, v_decoder_})
      if (coder) coder->initialize_own();
  }

  std::vector<at::Tensor> project(const at::Tensor& x, const Positions& /*positions*/) override {
    at::Tensor k, v;
    if (k_proj_) {
      k = split_heads(k_proj_(x), config_.head_dim);
      k = k_encoder_(original(kKeys, k_norm_ ? k_norm_(k) : k));
    }
    if (v_proj_) {
      v = split_heads(v_proj_(x), config_.head_dim);
      v = v_encoder_(original(kValues, config_.v_norm ? rms_norm(v, config_.rms_norm_eps) : v));
    }
    return {k, v};
  }

  Rows expand(Rows remembered) override {
    if (remembered.empty()) return remembered;
    auto &k = remembered.streams[kKeys], &v = remembered.streams[kValues];
    if (k.defined())
      k = rotate(compared(kKeys, k_decoder_(k)), remembered.positions, spec_.rope_theta);
    if (v.defined()) v = compared(kValues, v_decoder_(v));
    return remembered;
  }

  at::Tensor attend(const at::Tensor& x, const Positions& positions, const Rows& rows) override {
    if (rows.empty()) return torch::zeros_like(x);
    auto q = split_heads(q_proj_(x), config_.head_dim);
    if (q_norm_) q = q_norm_(q);
    const Visibility visibility = rows.seen_from(positions, strict_);
    const auto mixed = attention(rotate(q, positions, spec_.rope_theta), rows.streams[kKeys],
                                 rows.streams[kValues], visibility, config_.attention_scale());
    return o_proj_(merge_heads(mixed));
  }

  AuxiliaryLoss take_auxiliary_loss() override {
    at::Tensor sum;
    for (auto& error : errors_) {
      if (error.defined()) accumulate(sum, error);
      error.reset();
    }
    return {"reconstruction_loss", sum};
  }

 private:
  /// Remembers what is about to be encoded, where its loss is wanted.
  at::Tensor original(Stream stream, const at::Tensor& x) {
    originals_[stream] = leaves_auxiliary_loss() ? x : at::Tensor();
    errors_[stream].reset();
    return x;
  }
  /// Notes how far `decoded` is from the original. A training step has no earlier rows: those
  /// decoded are those just encoded.
  at::Tensor compared(Stream stream, const at::Tensor& decoded) {
    if (originals_[stream].defined()) {
      errors_[stream] = (decoded - originals_[stream]).to(torch::kFloat).abs().mean();
      originals_[stream].reset();
    }
    return decoded;
  }

  ModelConfig config_;
  LayerSpec spec_;
  bool strict_;
  Linear q_proj_{nullptr}, k_proj_{nullptr}, v_proj_{nullptr}, o_proj_{nullptr};
  RmsNorm q_norm_{nullptr}, k_norm_{nullptr};
  Coder k_encoder_{nullptr}, k_decoder_{nullptr}, v_encoder_{nullptr}, v_decoder_{nullptr};
  std::array<at::Tensor, 2> originals_;  ///< keys and values of this step before encoding
  std::array<at::Tensor, 2> errors_;     ///< mean |decoded - original| of each
};

}  // namespace

std::shared_ptr<Mixer> make_autoencoded(const ModelConfig& config,
                                        const KvGraph& graph,
                                        int64_t layer) {
  return std::make_shared<Autoencoded>(config, graph, layer);
}

int64_t autoencoded_cache_bytes(const ModelConfig& config,
                                const KvGraph& graph,
                                int64_t layer,
                                int64_t tokens,
                                int64_t element_bytes) {
  const int64_t heads = graph.key_heads(layer) + graph.value_heads(layer);
  return heads * config.autoencoder.autoencoder_dim * tokens * element_bytes;
}

MixerCost autoencoded_cost(const ModelConfig& config,
                           const KvGraph& graph,
                           int64_t layer,
                           int64_t context) {
  const LayerSpec& spec = graph[layer];
  const int64_t query = config.num_attention_heads * config.head_dim;
  const int64_t key_heads = graph.key_heads(layer), value_heads = graph.value_heads(layer);
  const bool has_keys = key_heads > 0, has_values = value_heads > 0;
  const int64_t streams = int64_t{has_keys} + has_values, heads = key_heads + value_heads;
  const int64_t kv = heads * config.head_dim;
  const int64_t code = config.autoencoder.autoencoder_dim, inner = inner_width(config);
  const int64_t products = inner > 0 ? 2 * inner * (config.head_dim + code)  // there and back
                                     : 2 * config.head_dim * code;
  const int64_t others = inner > 0 ? 4 * inner + code + config.head_dim : 0;  // biases and norms

  MixerCost cost;
  cost.matrices = config.hidden_size * (2 * query + kv);
  cost.vectors = streams * (products + others);  // multiplied more than once a token
  if (config.attention_bias) cost.vectors += query + kv;
  if (config.qk_norm) cost.vectors += config.head_dim * (1 + has_keys);
  // q and the output twice (see attention_cost); of each head what is encoded, the code, what is
  // decoded and its rotation, and three inner states of both coders
  cost.activations = 3 * query + 2 * kv + heads * (code + 6 * inner) + key_heads * config.head_dim;
  for (const int64_t own : {key_heads, value_heads})  // put together with reused ones
    if (own > 0 && own < spec.kv_heads) cost.activations += spec.kv_heads * config.head_dim;
  cost.mixing_flops = 4.0 * static_cast<double>(query) * mean_tokens_seen(spec, context) +
                      2.0 * static_cast<double>(heads * products);
  return cost;
}

}  // namespace kvsmith
