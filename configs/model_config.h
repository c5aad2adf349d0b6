#pragma once

#include <cstdint>
#include <string>

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
  bool attention_bias = false;
  bool qk_norm = false;
  std::string mixer = "attention";

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
    visit(Key{.name = "intermediate_size",
              .help = "width of the SwiGLU feed-forward layer; 0 takes 8/3 of hidden_size rounded "
                      "up to a multiple of 64",
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
    visit(Key{.name = "attention_bias",
              .help = "biases on the query, key and value projections, as in Qwen2"},
          self.attention_bias);
    visit(Key{.name = "qk_norm",
              .help = "RMSNorm on each query and key head before the rotation, as in Qwen3"},
          self.qk_norm);
    visit(Key{.name = "mixer",
              .help = "how a layer moves information between positions",
              .choices = {"attention"}},
          self.mixer);
  }

  bool operator==(const ModelConfig&) const = default;

  /// Query heads that read one key/value head.
  int64_t group_size() const { return num_attention_heads / num_key_value_heads; }
};

/// Replaces the zeros that stand for "take the default" (not vocab_size).
void fill_in(ModelConfig& config);

/// "MHA 8", "GQA 8/2" or "MQA 8": the family and its query/key-value heads.
std::string architecture_name(const ModelConfig& config);

}  // namespace kvsmith
