#pragma once

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "tests/support/tiny.h"

namespace kvsmith {

/// A model for the tests that every kind of layer must pass.
struct LayerCase {
  std::string name;
  ModelConfig config;
};

/// Six layers in the given pattern; as many passes as tokens, so that LCKV is exact.
inline LayerCase pattern(const std::string& name,
                         const std::function<void(ModelConfig&)>& change = {}) {
  std::string id = name;
  std::ranges::replace(id, '-', '_');
  return {id, tiny_model(2, [&](ModelConfig& config) {
            config.num_hidden_layers = 6;
            config.pattern = name;
            config.sliding_window = 6;
            config.forward_passes = 29;
            if (change) change(config);
          })};
}

inline LayerCase option(const std::string& name, const std::function<void(ModelConfig&)>& change) {
  return {name, tiny_model(2, change)};
}

/// Six layers of `kind` that share rows in the given pattern.
inline LayerCase layers_of(const std::string& kind,
                           const std::string& name,
                           const std::vector<std::string>& reused_heads = {}) {
  LayerCase out = pattern(name, [&](ModelConfig& config) {
    config.layer_types = {kind};
    config.autoencoder.reused_heads = reused_heads;
  });
  out.name = kind + "_" + out.name + (reused_heads.empty() ? "" : "_reused_heads");
  return out;
}

/// Latent layers all of whose widths differ.
inline void latent_sizes(ModelConfig& config) {
  config.layer_types = {"latent"};
  config.latent = {
      .kv_lora_rank = 20, .qk_rope_head_dim = 6, .qk_nope_head_dim = 10, .v_head_dim = 12};
}

/// Every option that Gemma 4's block has beside Llama's.
inline void gemma_block(ModelConfig& config) {
  config.scale_embeddings = config.sandwich_norm = config.qk_norm = config.v_norm = true;
  config.hidden_act = "gelu_pytorch_tanh";
  config.query_pre_attn_scalar = 1;
}

/// Local layers, global ones whose keys are made from their values, and trailing ones that share.
inline void gemma4(ModelConfig& config) {
  gemma_block(config);
  config.layer_types = {"sliding", "sliding", "full"};
  config.layer_num_key_value_heads = {2, 2, 1};
  config.rope_local_theta = 100;
  config.attention_k_eq_v = true;
}

/// Every kind and pattern.
inline std::vector<LayerCase> layer_cases() {
  return {
      option("mha", [](auto& c) { c.num_key_value_heads = 4; }),
      option("gqa", [](auto&) {}),
      option("mqa", [](auto& c) { c.num_key_value_heads = 1; }),
      option("gqa_bias_qk_norm", [](auto& c) { c.attention_bias = c.qk_norm = true; }),
      option("wide_heads_untied",
             [](auto& c) {
               c.head_dim = 24;
               c.tie_word_embeddings = false;
             }),
      option("k_eq_v", [](auto& c) { c.attention_k_eq_v = true; }),
      option("k_eq_v_qk_norm", [](auto& c) { c.attention_k_eq_v = c.qk_norm = true; }),
      option("sink_logits", [](auto& c) { c.attention_sink_logits = true; }),
      option("nope", [](auto& c) { c.layer_rope_theta = {10000, 0}; }),
      option("heads_per_layer", [](auto& c) { c.layer_num_key_value_heads = {1, 4}; }),
      option("sliding",
             [](auto& c) {
               c.layer_types = {"sliding"};
               c.sliding_window = 5;
             }),
      option("sliding_sinks",
             [](auto& c) {
               c.layer_types = {"sliding"};
               c.sliding_window = 5;
               c.num_sink_tokens = 3;
             }),
      option("sliding_and_k_eq_v_sinks_logits",
             [](auto& c) {
               c.layer_types = {"sliding", "full"};
               c.sliding_window = 5;
               c.num_sink_tokens = 2;
               c.attention_sink_logits = c.attention_k_eq_v = c.qk_norm = true;
             }),
      {"gemma4", pattern("trailing-reuse-2",
                         [](auto& c) {
                           gemma4(c);
                           c.query_pre_attn_scalar = 4;  // sharper, bf16 goes far from fp32
                         })
                     .config},
      option("gemma_block_of_memories",
             [](auto& c) {
               gemma_block(c);
               c.num_hidden_layers = 4;
               c.layer_types = {"bounded", "rattention", "autoencoded", "latent"};
               c.sliding_window = 5;
               c.linear.num_slots = 3;
             }),
      option("bounded",
             [](auto& c) {
               c.layer_types = {"bounded"};
               c.sliding_window = 5;
               c.num_sink_tokens = 2;
               c.linear.num_slots = 4;
             }),
      option("bounded_count_no_sinks_qk_norm",
             [](auto& c) {
               c.layer_types = {"bounded"};
               c.bounded.memory_capacity = 9;
               c.bounded.slot_mass = "count";
               c.bounded.slot_tau = 4;
               c.linear.num_slots = 3;
               c.qk_norm = true;
             }),
      option("bounded_and_full",
             [](auto& c) {
               c.layer_types = {"bounded", "full"};
               c.sliding_window = 3;
               c.linear.num_slots = 5;
             }),
      option("rattention",
             [](auto& c) {
               c.layer_types = {"rattention"};
               c.sliding_window = 5;
             }),
      option("rattention_sinks_bias_qk_norm",
             [](auto& c) {
               c.layer_types = {"rattention"};
               c.sliding_window = 4;
               c.num_sink_tokens = 3;
               c.attention_bias = c.qk_norm = true;
             }),
      option("rattention_and_full",
             [](auto& c) {
               c.layer_types = {"rattention", "full"};
               c.sliding_window = 3;
             }),
      pattern("local-global-2-1", [](auto& c) { c.rope_local_theta = 100; }),
      pattern("cla-2"),
      pattern("cla-3", [](auto& c) { c.attention_k_eq_v = c.qk_norm = true; }),
      pattern("trailing-reuse-3"),
      pattern("yoco"),
      pattern("mixattention"),
      pattern("fusedkv-lite"),
      pattern("fusedkv"),
      pattern("lckv"),
      pattern("lckv-sandwich-middle"),
      pattern("lckv-sandwich-bottom"),
      pattern("lckv-pizza-top"),
      pattern("lckv-pizza-middle"),
      pattern("lckv-lasagna-top", [](auto& c) { c.qk_norm = true; }),
      pattern("lckv-lasagna-middle"),
      option("latent", latent_sizes),
      option("latent_q_lora",
             [](auto& c) {
               latent_sizes(c);
               c.latent.q_lora_rank = 10;
             }),
      option("latent_nope",
             [](auto& c) {
               c.layer_types = {"latent"};
               c.layer_rope_theta = {10000, 0};
             }),
      layers_of("latent", "cla-2"),
      layers_of("latent", "lckv"),
      option("grouped_latent", [](auto& c) { c.layer_types = {"grouped_latent"}; }),
      layers_of("grouped_latent", "lckv"),
      option("gta", [](auto& c) { c.layer_types = {"gta"}; }),
      layers_of("gta", "cla-2"),
      layers_of("gta", "lckv"),
      option("autoencoded", [](auto& c) { c.layer_types = {"autoencoded"}; }),
      option("autoencoded_bias_qk_norm",
             [](auto& c) {
               c.layer_types = {"autoencoded"};
               c.autoencoder = {.autoencoder_dim = 3, .autoencoder_hidden = 11};
               c.attention_bias = c.qk_norm = true;
             }),
      option("autoencoded_linear",
             [](auto& c) {
               c.layer_types = {"autoencoded"};
               c.autoencoder.autoencoder_kind = "linear";
             }),
      option("autoencoded_reused_chain",
             [](auto& c) {
               c.num_hidden_layers = 4;
               c.layer_types = {"autoencoded"};
               c.autoencoder.reused_heads = {"1:1", "2:1", "3:1", "3:0:k"};
               c.attention_bias = c.qk_norm = true;
             }),
      option("autoencoded_reused_keys_linear",
             [](auto& c) {
               c.layer_types = {"autoencoded"};
               c.num_key_value_heads = 4;
               c.autoencoder.autoencoder_kind = "linear";
               c.autoencoder.reused_heads = {"1:0:k", "1:3:k"};
             }),
      option("autoencoded_reused_values",
             [](auto& c) {
               c.layer_types = {"autoencoded"};
               c.autoencoder.reused_heads = {"1:0:v", "1:1:v"};
             }),
      // layer 2 stores nothing, and the layers above it read it
      layers_of("autoencoded", "trailing-reuse-3", {"2:0", "2:1"}),
      layers_of("autoencoded", "cla-2"),
      layers_of("autoencoded", "lckv"),
      option("full_latent_sliding",
             [](auto& c) {
               c.num_hidden_layers = 3;
               c.layer_types = {"full", "latent", "sliding"};
               c.sliding_window = 5;
               c.qk_norm = true;
             }),
      {"lckv_all_sliding", tiny_model(2,
                                      [](ModelConfig& config) {
                                        config.num_hidden_layers = 6;
                                        config.layer_types = {"0_4s_4s_4s_4s_5"};
                                        config.sliding_window = 6;
                                        config.forward_passes = 29;
                                      })},
      option("gated_delta", [](auto& c) { c.layer_types = {"gated_delta"}; }),
      option("gated_delta_wide_without_conv",
             [](auto& c) {
               c.layer_types = {"gated_delta"};
               c.linear.linear_num_heads = 3;
               c.linear.linear_head_dim = 12;
               c.linear.linear_conv_kernel_dim = 1;
             }),
      option("gated_delta_full_3_1",
             [](auto& c) {
               c.num_hidden_layers = 4;
               c.layer_types = {"gated_delta", "gated_delta", "gated_delta", "full"};
             }),
      option("gla", [](auto& c) { c.layer_types = {"gla"}; }),
      option("gsa", [](auto& c) { c.layer_types = {"gsa"}; }),
      option("gsa_few_slots_mqa",
             [](auto& c) {
               c.layer_types = {"gsa"};
               c.num_key_value_heads = 1;
               c.linear.num_slots = 3;
             }),
      option("gsa_sliding",
             [](auto& c) {
               c.layer_types = {"gsa", "sliding"};
               c.sliding_window = 5;
             }),
      option("abc", [](auto& c) { c.layer_types = {"abc"}; }),
  };
}

}  // namespace kvsmith
