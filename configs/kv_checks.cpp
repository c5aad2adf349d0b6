#include "configs/kv_checks.h"

#include <algorithm>

#include "core/text.h"

namespace kvsmith {
namespace {

/// Complaints about the edges of a complete table.
class EdgeCheck {
 public:
  EdgeCheck(const KvGraph& graph, std::vector<KeyProblem>& problems)
      : graph_(graph), problems_(problems) {}

  void run() {
    const Expect expect{problems_};
    for (int64_t i = 0; i < graph_.size(); ++i) {
      const LayerSpec &k = graph_[graph_[i].k_source], &v = graph_[graph_[i].v_source];
      expect(k.window == v.window && k.sinks == v.sinks, "v_source_layers",
             cat("layer ", i, " reads keys of layer ", graph_[i].k_source, " (", k.kind,
                 ") and values of layer ", graph_[i].v_source, " (", v.kind,
                 "), which remember different tokens; use layers of one kind"));
      const bool keys_ahead = graph_[i].k_source > i, values_ahead = graph_[i].v_source > i;
      expect(keys_ahead == values_ahead, "v_source_layers",
             cat("layer ", i, " reads ", keys_ahead ? "keys" : "values",
                 " of a layer above it, which are there up to the token before, and ",
                 keys_ahead ? "values" : "keys", " of one that is not above it; take both from ",
                 "above or none"));
      const bool is_fused = graph_[i].kind == "fused";
      expect(!is_fused || graph_[i].k_source != graph_[i].v_source, "layer_types",
             cat("layer ", i, " is fused, which mixes rows of two layers, and reads layer ",
                 graph_[i].k_source, " alone; name two, or make it full"));
      check(i, graph_[i].k_source, "k_source_layers", /*keys=*/true);
      if (graph_[i].v_source != graph_[i].k_source)
        check(i, graph_[i].v_source, "v_source_layers", /*keys=*/is_fused);
    }
    for (const Slice& slice : graph_.slices()) {
      for (int64_t i = slice.first; slice.is_cyclic && i < slice.last; ++i) {
        expect(layer_kind(graph_[i].kind).has_rows, "layer_types",
               cat("layer ", i, " (", graph_[i].kind, ") stands between a layer that reads ahead ",
                   "and its source (layers ", slice.first, " to ", slice.last - 1,
                   "); such layers are run repeatedly over the same tokens, which a memory that ",
                   "is not one row a token cannot take back; move it out of them"));
      }
    }
  }

 private:
  void check(int64_t reader, int64_t source, const std::string& key, bool keys) {
    const Expect expect{problems_};
    const LayerSpec &r = graph_[reader], &s = graph_[source];
    const std::string edge =
        cat("layer ", reader, " (", r.kind, ") reads layer ", source, " (", s.kind, ")");
    if (reader == source) return;
    const auto &reader_kind = layer_kind(r.kind), &source_kind = layer_kind(s.kind);
    if (!reader_kind.has_rows || reader_kind.row_format != source_kind.row_format) {
      expect(false, key, edge + ", which keeps something else; let it read a layer of its kind");
      return;
    }
    expect(r.kv_heads == s.kv_heads, "layer_num_key_value_heads",
           cat(edge, ", which has ", s.kv_heads, " key/value heads, not ", r.kv_heads));
    expect(!keys || r.rope_theta == s.rope_theta, "layer_rope_theta",
           cat(edge, ", whose keys are rotated with base ", s.rope_theta, ", not ", r.rope_theta,
               " (0: no rotation)"));
    const bool evicted = s.window > 0 && (r.window == 0 || r.window > s.window);
    expect(!evicted, "sliding_window",
           cat(edge, ", which has evicted all but ", s.window, " tokens, and needs ",
               r.window == 0 ? std::string("all") : std::to_string(r.window), "; make layer ",
               source, " full or layer ", reader, " sliding"));
    expect(s.window == 0 || r.sinks <= s.sinks, "num_sink_tokens",
           cat(edge, ", which keeps ", s.sinks, " sink tokens, not ", r.sinks));
  }

  const KvGraph& graph_;
  std::vector<KeyProblem>& problems_;
};

/// Sizes of latent layers and of their relatives.
void check_latent(const ModelConfig& c, const KvGraph& graph, std::vector<KeyProblem>& problems) {
  const Expect expect{problems};
  const LatentConfig& sizes = c.latent;
  bool has_latent = false, has_grouped = false, has_gta = false;
  for (int64_t i = 0; i < graph.size(); ++i) {
    const LayerSpec& spec = graph[i];
    const bool is_gta = spec.kind == "gta", is_grouped = spec.kind == "grouped_latent";
    const bool is_latent = is_gta || is_grouped || spec.kind == "latent";
    expect(!is_latent || spec.k_source == spec.v_source, "v_source_layers",
           cat("layer ", i, " (", spec.kind, ") reads keys of layer ", spec.k_source,
               " and values of layer ", spec.v_source,
               ", but both are made from one state; name one layer"));
    has_latent = has_latent || is_latent;
    has_grouped = has_grouped || is_grouped;
    has_gta = has_gta || is_gta;
  }
  if (!has_latent) return;
  expect(sizes.qk_rope_head_dim % 2 == 0 && sizes.qk_rope_head_dim > 0, "qk_rope_head_dim",
         cat("is ", sizes.qk_rope_head_dim, ", and the rotary embedding turns pairs; choose an ",
             "even number such as ", std::max<int64_t>(2, c.head_dim / 4 * 2)));
  expect(!has_gta || sizes.qk_rope_head_dim < c.head_dim, "qk_rope_head_dim",
         cat("is ", sizes.qk_rope_head_dim, ", which leaves a gta layer with head_dim ", c.head_dim,
             " no key dimension that is tied to the value; choose less, usually head_dim / 2"));
  expect(!has_grouped || sizes.kv_lora_rank % 2 == 0, "kv_lora_rank",
         cat("is ", sizes.kv_lora_rank, ", and grouped_latent layers cut it into two heads; ",
             "choose an even number"));
  expect(!has_grouped || c.num_attention_heads % 2 == 0, "num_attention_heads",
         cat("is ", c.num_attention_heads, ", and in grouped_latent layers each of two latents ",
             "serves half of the heads; choose an even number or latent layers"));
}

/// Sizes of autoencoded layers.
void check_coded(const ModelConfig& c, std::vector<KeyProblem>& problems) {
  const auto& types = c.layer_types;
  const bool has_codes = std::ranges::find(types, "autoencoded") != types.end();
  const int64_t code = c.autoencoder.autoencoder_dim;
  Expect{problems}(!has_codes || code <= c.head_dim, "autoencoder_dim",
                   cat("is ", code, ", more than the head_dim of ", c.head_dim,
                       " that it stands for; choose less, usually head_dim / 2, or full layers"));
}

/// An option that no layer of the model has would be silently without effect.
void check_attention_options(const ModelConfig& c, std::vector<KeyProblem>& problems) {
  const std::vector<std::string> with_heads = {"full",        "sliding", "fused",
                                               "autoencoded", "bounded", "rattention"};
  const std::vector<std::string> with_rows = {"full", "sliding", "fused"};
  struct Option {
    const char* key;
    bool is_set;
    std::vector<std::string> kinds;
  };
  for (const Option& option :
       std::vector<Option>{{"attention_bias", c.attention_bias, with_heads},
                           {"qk_norm", c.qk_norm, with_heads},
                           {"v_norm", c.v_norm, with_heads},
                           {"query_pre_attn_scalar", c.query_pre_attn_scalar > 0, with_heads},
                           {"attention_sink_logits", c.attention_sink_logits, with_rows},
                           {"attention_k_eq_v", c.attention_k_eq_v, {"full"}}}) {
    const bool applies =
        std::ranges::find_first_of(c.layer_types, option.kinds) != c.layer_types.end();
    Expect{problems}(applies || !option.is_set, option.key,
                     cat("is an option of ", join(option.kinds),
                         " layers, and the model has none; leave it out"));
  }
}

}  // namespace

void check_edges(const KvGraph& graph, std::vector<KeyProblem>& problems) {
  EdgeCheck(graph, problems).run();
}

void check_options(const ModelConfig& c, const KvGraph& graph, std::vector<KeyProblem>& problems) {
  const Expect expect{problems};
  for (int64_t i = 0; i < graph.size(); ++i) {
    const LayerSpec& spec = graph[i];
    const bool ties = graph[spec.k_source].k_eq_v || graph[spec.v_source].k_eq_v;
    expect(!ties || spec.k_source == spec.v_source, "attention_k_eq_v",
           cat("layer ", i, " reads keys of layer ", spec.k_source, " and values of layer ",
               spec.v_source, ", but both are one tensor"));
    const bool has_slots = spec.kind == "gsa" || spec.kind == "abc";
    expect(
        !has_slots || c.linear.num_slots > 0, "num_slots",
        cat("layer ", i, " is ", spec.kind, ", which remembers nothing but its slots, and there ",
            "are 0; 64 is a usual number"));
  }
  check_latent(c, graph, problems);
  check_coded(c, problems);
  check_attention_options(c, problems);
  expect(!graph.is_cyclic() || c.dropout == 0, "dropout",
         "layers that read ahead are run several times over the same tokens, and each pass would "
         "drop other elements; set dropout = 0");
}

}  // namespace kvsmith
