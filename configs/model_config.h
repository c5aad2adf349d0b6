#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "configs/autoencoder_config.h"
#include "configs/bounded_config.h"
#include "configs/latent_config.h"
#include "configs/linear_config.h"
#include "core/fields.h"

namespace kvsmith {

/// The shape of a decoder-only language model, with the key names of Hugging Face's config.json.
struct ModelConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 256;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 4;
  int64_t num_attention_heads = 4;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 2048;
  double rope_theta = 10000;
  double rms_norm_eps = 1e-5;
  double initializer_range = 0.02;
  double dropout = 0;
  bool tie_word_embeddings = true;
  bool scale_embeddings = false;
  std::string hidden_act = "silu";
  bool sandwich_norm = false;
  bool attention_bias = false;
  bool qk_norm = false;
  bool v_norm = false;
  double query_pre_attn_scalar = 0;
  bool attention_k_eq_v = false;
  bool attention_sink_logits = false;
  std::string pattern;
  std::vector<std::string> layer_types;
  std::vector<int64_t> kv_source_layers;
  std::vector<int64_t> k_source_layers;
  std::vector<int64_t> v_source_layers;
  std::vector<int64_t> layer_num_key_value_heads;
  std::vector<double> layer_rope_theta;
  int64_t sliding_window = 0;
  int64_t num_sink_tokens = 0;
  double rope_local_theta = 0;
  int64_t lckv_warmup_layers = 2;
  int64_t forward_passes = 7;
  int64_t backward_passes = 2;
  LatentConfig latent;
  LinearConfig linear;
  BoundedConfig bounded;
  AutoencoderConfig autoencoder;

  template <class Self, class Visit>
  static void fields(Self& self, Visit&& visit) {
    visit(Key{.name = "vocab_size",
              .help = "number of token ids; 0 takes the tokenizer's",
              .min = 0,
              .max = 1 << 24},
          self.vocab_size);
    visit(Key{.name = "hidden_size",
              .help = "width of the residual stream",
              .min = 1,
              .max = 1 << 20},
          self.hidden_size);
    visit(
        Key{.name = "intermediate_size",
            .help = "width of the gated feed-forward layer; 0 takes 8/3 of hidden_size rounded up "
                    "to a multiple of 64",
            .min = 0,
            .max = 1 << 22},
        self.intermediate_size);
    visit(Key{.name = "num_hidden_layers", .help = "number of blocks", .min = 1, .max = 4096},
          self.num_hidden_layers);
    visit(Key{.name = "num_attention_heads", .help = "query heads", .min = 1, .max = 4096},
          self.num_attention_heads);
    visit(Key{.name = "num_key_value_heads",
              .help = "key/value heads, a divisor of num_attention_heads: all of them is MHA, 1 is "
                      "MQA, between is GQA; 0 takes num_attention_heads",
              .min = 0,
              .max = 4096},
          self.num_key_value_heads);
    visit(Key{.name = "head_dim",
              .help = "width of one head; 0 takes hidden_size / num_attention_heads",
              .min = 0,
              .max = 4096},
          self.head_dim);
    visit(Key{.name = "max_position_embeddings",
              .help = "longest text the model is meant for, in tokens",
              .min = 1,
              .max = 1 << 28},
          self.max_position_embeddings);
    visit(Key{.name = "rope_theta", .help = "base of the rotary angles", .min = 1, .max = 1e12},
          self.rope_theta);
    visit(Key{.name = "rms_norm_eps",
              .help = "added to the mean square in RMSNorm",
              .min = 0,
              .max = 1},
          self.rms_norm_eps);
    visit(Key{.name = "initializer_range",
              .help = "standard deviation of initial weights; output projections are divided by "
                      "sqrt(2 * num_hidden_layers)",
              .min = 0,
              .max = 10},
          self.initializer_range);
    visit(Key{.name = "dropout",
              .help = "probability of dropping an element of a branch before it joins the residual "
                      "stream",
              .min = 0,
              .max = 0.95},
          self.dropout);
    visit(Key{.name = "tie_word_embeddings", .help = "the LM head uses the embedding matrix"},
          self.tie_word_embeddings);
    visit(Key{.name = "scale_embeddings",
              .help = "embeddings are multiplied by sqrt(hidden_size) where they enter the model "
                      "(Gemma)"},
          self.scale_embeddings);
    visit(Key{.name = "hidden_act",
              .help = "activation of the gate of the feed-forward layer",
              .choices = {"silu", "gelu_pytorch_tanh"}},
          self.hidden_act);
    visit(Key{.name = "sandwich_norm",
              .help = "RMSNorm also on what attention and feed-forward layers add to the residual "
                      "stream (Gemma)"},
          self.sandwich_norm);
    visit(Key{.name = "attention_bias",
              .help = "biases on the query, key and value projections, as in Qwen2"},
          self.attention_bias);
    visit(Key{.name = "qk_norm",
              .help = "RMSNorm on each query and key head before the rotation, as in Qwen3"},
          self.qk_norm);
    visit(Key{.name = "v_norm", .help = "RMSNorm without a weight on each value head (Gemma 4)"},
          self.v_norm);
    visit(Key{.name = "query_pre_attn_scalar",
              .help = "attention scores are divided by its square root; 0: by that of head_dim",
              .min = 0,
              .max = 1 << 20},
          self.query_pre_attn_scalar);
    visit(Key{.name = "attention_k_eq_v",
              .help = "in full layers, values are the keys before their rotation (with qk_norm: "
                      "normed, before the norm's weight, as in Gemma 4), and only they are cached"},
          self.attention_k_eq_v);
    visit(Key{.name = "attention_sink_logits",
              .help = "a learned logit per head in the softmax's denominator (gpt-oss)"},
          self.attention_sink_logits);
    visit(Key{.name = "pattern",
              .help = "name of a layout of layers, expanded into the lists below: mha, gqa, mqa, "
                      "cla-N, trailing-reuse-N, yoco, mixattention, local-global-N-1, lckv, "
                      "lckv-{sandwich,pizza,lasagna}-{top,middle,bottom}, fusedkv-lite, fusedkv; "
                      "empty: the lists alone"},
          self.pattern);
    visit(Key{.name = "layer_types",
              .help = "kind of each layer, see docs/architectures; one value stands for all, a "
                      "list that fits in several times is a period; or the string of the LCKV "
                      "authors, \"0_4s_4_4_4_5\""},
          self.layer_types);
    visit(Key{.name = "kv_source_layers",
              .help = "for each layer, the layer whose keys and values it reads; empty: its own",
              .min = 0,
              .max = 4095},
          self.kv_source_layers);
    visit(Key{.name = "k_source_layers", .help = "the same for keys alone", .min = 0, .max = 4095},
          self.k_source_layers);
    visit(
        Key{.name = "v_source_layers", .help = "the same for values alone", .min = 0, .max = 4095},
        self.v_source_layers);
    visit(Key{.name = "layer_num_key_value_heads",
              .help = "key/value heads of each layer; empty: num_key_value_heads",
              .min = 1,
              .max = 4096},
          self.layer_num_key_value_heads);
    visit(Key{.name = "layer_rope_theta",
              .help = "rope_theta of each layer, 0 for none (NoPE); empty: rope_theta, or "
                      "rope_local_theta in sliding layers",
              .min = 0,
              .max = 1e12},
          self.layer_rope_theta);
    visit(Key{.name = "sliding_window",
              .help = "keys that a token of a sliding layer sees, its own included",
              .min = 0,
              .max = 1 << 28},
          self.sliding_window);
    visit(Key{.name = "num_sink_tokens",
              .help = "first tokens of a text that stay visible in sliding layers",
              .min = 0,
              .max = 1 << 20},
          self.num_sink_tokens);
    visit(Key{.name = "rope_local_theta",
              .help = "rope_theta of sliding layers; 0: rope_theta",
              .min = 0,
              .max = 1e12},
          self.rope_local_theta);
    visit(Key{.name = "lckv_warmup_layers",
              .help = "lckv patterns: layers with keys and values of their own; the others share "
                      "one layer's, or in lasagna one layer's of each of this many groups plus one",
              .min = 0,
              .max = 4095},
          self.lckv_warmup_layers);
    visit(Key{.name = "forward_passes",
              .help = "passes without gradient through layers that read keys from further up",
              .min = 0,
              .max = 1 << 20},
          self.forward_passes);
    visit(Key{.name = "backward_passes",
              .help = "passes with gradient after them; 1 starves the shared layer of gradient",
              .min = 1,
              .max = 1 << 20},
          self.backward_passes);
    LatentConfig::fields(self.latent, visit);
    LinearConfig::fields(self.linear, visit);
    BoundedConfig::fields(self.bounded, visit);
    AutoencoderConfig::fields(self.autoencoder, visit);
  }

  bool operator==(const ModelConfig&) const = default;

  /// What attention scores are multiplied by.
  double attention_scale() const {
    const auto width = static_cast<double>(head_dim);
    return 1 / std::sqrt(query_pre_attn_scalar > 0 ? query_pre_attn_scalar : width);
  }
};

/// A key of [model] and what is wrong with its value.
struct KeyProblem {
  std::string key;  ///< "sliding_window"
  std::string text;
};

/// Replaces the zeros and empty lists that stand for "take the default" (not vocab_size), expands
/// `pattern`, and returns what does not fit together. Filling in twice changes nothing.
std::vector<KeyProblem> fill_in(ModelConfig& config);

/// "MHA 8", "GQA 8/2" or "MQA 8": the family and its query/key-value heads; before it what else is
/// special: "YOCO GQA 8/2".
std::string architecture_name(const ModelConfig& config);

/// A kind of layer.
struct LayerKind {
  std::string name;  ///< of `layer_types`
  std::string help;
  bool has_rows = false;   ///< remembers one row a token, so that another layer may read it
  std::string row_format;  ///< layers may share rows of one format
};

/// Every kind there is.
const std::vector<LayerKind>& layer_kinds();
/// The first kind when there is none of that name.
const LayerKind& layer_kind(const std::string& name);

}  // namespace kvsmith
