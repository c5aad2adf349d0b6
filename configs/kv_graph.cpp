#include "configs/kv_graph.h"

#include <algorithm>

#include "configs/kv_patterns.h"
#include "core/text.h"

namespace kvsmith {
namespace {

std::string in_quotes(const std::string& text) { return "\"" + text + "\""; }
std::string in_quotes(int64_t number) { return std::to_string(number); }

/// Its layers need a window; they may have sinks besides.
bool has_window(const std::string& kind) {
  return kind == "sliding" || kind == "bounded" || kind == "rattention";
}

/// A list that fits several times into the layers is a period: ["sliding", "sliding", "full"].
template <class T>
void repeat(std::vector<T>& list, const ModelConfig& config) {
  const auto layers = static_cast<size_t>(config.num_hidden_layers), period = list.size();
  if (period == 0 || layers % period != 0) return;
  while (list.size() < layers) list.push_back(list[list.size() - period]);
}

/// Completes one per-layer list: a single value stands for every layer, an empty list for `base`.
template <class T>
void complete(std::vector<T>& list,
              const std::vector<T>& base,
              const std::string& key,
              const ModelConfig& config,
              std::vector<KeyProblem>& problems) {
  const auto layers = static_cast<size_t>(config.num_hidden_layers);
  if (list.size() == 1 && layers > 1) list.resize(layers, list[0]);
  if (list.empty()) list = base;
  if (list.size() != layers) {
    problems.push_back({key, cat("has ", list.size(), " entries for ", layers,
                                 " layers; give one each, or one for all; kinds, heads and "
                                 "bases may be a period that divides them")});
  }
}

/// A list that the user gave beside a pattern must say the same.
template <class T>
void agree(std::vector<T>& list,
           const std::vector<T>& expanded,
           const std::string& key,
           const std::string& what,
           std::vector<KeyProblem>& problems) {
  if (expanded.empty()) return;
  if (list.empty() || list == expanded) {
    list = expanded;
    return;
  }
  const auto different = std::ranges::mismatch(list, expanded);
  const auto layer = different.in1 - list.begin();
  problems.push_back(
      {key,
       different.in1 == list.end() || different.in2 == expanded.end()
           ? cat("has ", list.size(), " entries, ", what, " has ", expanded.size())
           : cat("contradicts ", what, ": layer ", layer, " is ", in_quotes(*different.in1),
                 " here and ", in_quotes(*different.in2), " there; leave one of the two out")});
}

void expand(ModelConfig& c, std::vector<KeyProblem>& problems) {
  const bool is_lckv_string =
      c.layer_types.size() == 1 && c.layer_types[0].find_first_of("0123456789") == 0;
  if (is_lckv_string) {
    const std::string text = c.layer_types[0];
    const LayerLists lists = parse_lckv_layers(text, problems);
    c.layer_types = lists.types;
    agree(c.kv_source_layers, lists.k_sources, "kv_source_layers", "layer_types " + in_quotes(text),
          problems);
  }
  if (!c.kv_source_layers.empty()) {
    agree(c.k_source_layers, c.kv_source_layers, "k_source_layers", "kv_source_layers", problems);
    agree(c.v_source_layers, c.kv_source_layers, "v_source_layers", "kv_source_layers", problems);
  }
  if (!c.pattern.empty()) {
    const std::string what = "pattern " + in_quotes(c.pattern);
    const LayerLists lists = expand_pattern(c, problems);
    agree(c.layer_types, lists.types, "layer_types", what, problems);
    agree(c.k_source_layers, lists.k_sources, "k_source_layers", what, problems);
    agree(c.v_source_layers, lists.v_sources, "v_source_layers", what, problems);
  }
}

/// Notes what does not hold.
struct Expect {
  std::vector<KeyProblem>& problems;

  void operator()(bool good, const std::string& key, const std::string& text) const {
    if (!good) problems.push_back({key, text});
  }
};

/// Complaints about the edges of a complete table.
class EdgeCheck {
 public:
  EdgeCheck(const ModelConfig& config, std::vector<KeyProblem>& problems)
      : graph_(config), problems_(problems) {}

  void run() {
    const Expect expect{problems_};
    for (int64_t i = 0; i < graph_.size(); ++i) {
      const LayerSpec &k = graph_[graph_[i].k_source], &v = graph_[graph_[i].v_source];
      expect(k.window == v.window && k.sinks == v.sinks, "v_source_layers",
             cat("layer ", i, " reads keys of layer ", graph_[i].k_source, " (", k.kind,
                 ") and values of layer ", graph_[i].v_source, " (", v.kind,
                 "), which remember different tokens; use layers of one kind"));
      check(i, graph_[i].k_source, "k_source_layers", /*keys=*/true);
      check(i, graph_[i].v_source, "v_source_layers", /*keys=*/false);
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

  KvGraph graph_;
  std::vector<KeyProblem>& problems_;
};

/// Sizes of latent layers and of their relatives.
void check_latent(const ModelConfig& c, const KvGraph& graph, std::vector<KeyProblem>& problems) {
  const Expect expect{problems};
  const LatentConfig& sizes = c.latent;
  bool all_latent = true, has_latent = false, has_grouped = false, has_gta = false;
  for (int64_t i = 0; i < graph.size(); ++i) {
    const LayerSpec& spec = graph[i];
    const bool is_gta = spec.kind == "gta", is_grouped = spec.kind == "grouped_latent";
    const bool is_latent = is_gta || is_grouped || spec.kind == "latent";
    expect(!is_latent || spec.k_source == spec.v_source, "v_source_layers",
           cat("layer ", i, " (", spec.kind, ") reads keys of layer ", spec.k_source,
               " and values of layer ", spec.v_source,
               ", but both are made from one state; name one layer"));
    all_latent = all_latent && is_latent;
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
  for (const auto& [key, is_set] :
       {std::pair("qk_norm", c.qk_norm), std::pair("attention_bias", c.attention_bias),
        std::pair("attention_k_eq_v", c.attention_k_eq_v),
        std::pair("attention_sink_logits", c.attention_sink_logits)}) {
    expect(!all_latent || !is_set, key,
           "is an option of attention layers, and the model has none, only latent ones and their "
           "relatives; leave it out");
  }
}

/// Sizes and options of autoencoded and rattention layers.
void check_coded(const ModelConfig& c, std::vector<KeyProblem>& problems) {
  const Expect expect{problems};
  const auto& types = c.layer_types;
  const bool has_codes = std::ranges::find(types, "autoencoded") != types.end();
  const int64_t code = c.autoencoder.autoencoder_dim;
  expect(!has_codes || code <= c.head_dim, "autoencoder_dim",
         cat("is ", code, ", more than the head_dim of ", c.head_dim,
             " that it stands for; choose less, usually head_dim / 2, or full layers"));
  const auto here = std::ranges::find_if(
      types, [](const std::string& type) { return type == "autoencoded" || type == "rattention"; });
  if (here == types.end()) return;
  const bool has_attention = std::ranges::any_of(
      types, [](const std::string& type) { return layer_kind(type).row_format == "kv"; });
  for (const auto& [key, is_set] : {std::pair("attention_k_eq_v", c.attention_k_eq_v),
                                    std::pair("attention_sink_logits", c.attention_sink_logits)}) {
    expect(has_attention || !is_set, key,
           cat("does not apply to ", *here, " layers, and the model has no others that it ",
               "applies to; leave it out"));
  }
}

/// Bytes of a key/value head's sinks and slots, and of each further token, as
/// memory_capacity_bytes counts them.
struct BoundedBytes {
  explicit BoundedBytes(const ModelConfig& c)
      : token(2 * c.head_dim * 2),
        besides(c.num_sink_tokens * token + c.linear.num_slots * (2 * c.head_dim + 1) * 4) {}
  int64_t token, besides;
};

/// The window that the capacity of a bounded layer leaves; below 1 where it is too small.
int64_t bounded_window(const ModelConfig& c, int64_t kv_heads) {
  if (c.bounded.memory_capacity_bytes > 0) {
    const BoundedBytes bytes(c);
    return (c.bounded.memory_capacity_bytes / kv_heads - bytes.besides) / bytes.token;
  }
  if (c.bounded.memory_capacity > 0)
    return c.bounded.memory_capacity - c.num_sink_tokens - c.linear.num_slots;
  return c.sliding_window;
}

void check_bounded(const ModelConfig& c, const KvGraph& graph, std::vector<KeyProblem>& problems) {
  const int64_t tokens = c.bounded.memory_capacity, bytes = c.bounded.memory_capacity_bytes;
  const auto expect = [&](bool good, const std::string& key, const std::string& text) {
    if (!good) problems.push_back({key, text});
  };
  for (int64_t i = 0; i < graph.size(); ++i) {
    if (graph[i].kind != "bounded") continue;
    expect(c.linear.num_slots > 0, "num_slots",
           cat("layer ", i,
               " is bounded and has no slots; for sinks and a window alone make it "
               "sliding"));
    expect(tokens == 0 || bytes == 0, "memory_capacity_bytes",
           cat("is ", bytes, " and memory_capacity is ", tokens, "; give one of them"));
    const std::string needs = cat(c.num_sink_tokens, " sinks, ", c.linear.num_slots,
                                  " slots and a window of at least 1; give at least ");
    const int64_t least = c.num_sink_tokens + c.linear.num_slots + 1;
    expect(tokens == 0 || graph[i].window > 0, "memory_capacity",
           cat("layer ", i, " has a capacity of ", tokens, " tokens for ", needs, least));
    const BoundedBytes of_head(c);
    expect(
        bytes == 0 || graph[i].window > 0, "memory_capacity_bytes",
        cat("layer ", i, " has a capacity of ", bytes, " bytes for ", graph[i].kv_heads,
            " key/value heads of ", needs, graph[i].kv_heads * (of_head.besides + of_head.token)));
  }
}

/// Options of layers that exclude each other.
void check_options(const ModelConfig& c, std::vector<KeyProblem>& problems) {
  const KvGraph graph(c);
  const Expect expect{problems};
  expect(!c.attention_k_eq_v || c.qk_norm, "attention_k_eq_v",
         "needs qk_norm = true: keys are the values times the weight of the key norm, rotated");
  for (int64_t i = 0; i < graph.size(); ++i) {
    const LayerSpec& spec = graph[i];
    expect(!c.attention_k_eq_v || spec.k_source == spec.v_source, "attention_k_eq_v",
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
  check_bounded(c, graph, problems);
  expect(!graph.is_cyclic() || c.dropout == 0, "dropout",
         "layers that read ahead are run several times over the same tokens, and each pass would "
         "drop other elements; set dropout = 0");
}

}  // namespace

KvGraph::KvGraph(const ModelConfig& config) {
  for (size_t i = 0; i < config.layer_types.size(); ++i) {
    const std::string& kind = config.layer_types[i];
    const bool slides = has_window(kind);
    const int64_t window = kind == "bounded"
                               ? bounded_window(config, config.layer_num_key_value_heads[i])
                               : config.sliding_window;
    layers_.push_back({.kind = kind,
                       .k_source = config.k_source_layers[i],
                       .v_source = config.v_source_layers[i],
                       .kv_heads = config.layer_num_key_value_heads[i],
                       .window = slides ? window : 0,
                       .sinks = slides ? config.num_sink_tokens : 0,
                       .rope_theta = config.layer_rope_theta[i]});
  }
  uses_.resize(layers_.size());
  for (int64_t reader = 0; reader < size(); ++reader) {
    const LayerSpec& spec = (*this)[reader];
    Use& k = uses_[static_cast<size_t>(spec.k_source)];
    Use& v = uses_[static_cast<size_t>(spec.v_source)];
    k.keys = v.values = true;
    if (spec.kind == "fused") k.values = v.keys = true;
    k.last_reader = v.last_reader = reader;
  }
  slices_ = cut();
}

int64_t KvGraph::owners() const {
  int64_t count = 0;
  for (int64_t i = 0; i < size(); ++i) count += is_owner(i);
  return count;
}

bool KvGraph::reads_ahead(int64_t layer) const {
  const LayerSpec& spec = (*this)[layer];
  return std::max(spec.k_source, spec.v_source) > layer;
}

std::vector<Slice> KvGraph::cut() const {
  std::vector<Slice> out;
  for (int64_t first = 0; first < size();) {
    int64_t last = first + 1;
    const bool is_cyclic = reads_ahead(first);
    if (is_cyclic) {
      for (int64_t i = first; i < last; ++i)
        last = std::max({last, (*this)[i].k_source + 1, (*this)[i].v_source + 1});
    } else {
      while (last < size() && !reads_ahead(last)) ++last;
    }
    out.push_back({first, last, is_cyclic});
    first = last;
  }
  return out;
}

bool KvGraph::is_cyclic() const { return std::ranges::any_of(slices_, &Slice::is_cyclic); }

std::vector<KeyProblem> fill_in_layers(ModelConfig& c) {
  std::vector<KeyProblem> problems;
  expand(c, problems);
  const auto layers = static_cast<size_t>(c.num_hidden_layers);
  std::vector<int64_t> own(layers);
  for (size_t i = 0; i < layers; ++i) own[i] = static_cast<int64_t>(i);
  repeat(c.layer_types, c);
  repeat(c.layer_num_key_value_heads, c);
  repeat(c.layer_rope_theta, c);
  complete(c.layer_types, std::vector<std::string>(layers, "full"), "layer_types", c, problems);
  complete(c.k_source_layers, own, "k_source_layers", c, problems);
  complete(c.v_source_layers, own, "v_source_layers", c, problems);
  complete(c.layer_num_key_value_heads, std::vector<int64_t>(layers, c.num_key_value_heads),
           "layer_num_key_value_heads", c, problems);
  if (!problems.empty()) return problems;

  std::vector<double> theta;
  for (const auto& type : c.layer_types) {
    theta.push_back(type == "sliding" && c.rope_local_theta > 0 ? c.rope_local_theta
                                                                : c.rope_theta);
  }
  complete(c.layer_rope_theta, theta, "layer_rope_theta", c, problems);
  c.kv_source_layers =
      c.k_source_layers == c.v_source_layers ? c.k_source_layers : std::vector<int64_t>{};

  std::vector<std::string> names;
  for (const auto& kind : layer_kinds()) names.push_back(kind.name);
  for (size_t i = 0; i < layers; ++i) {
    const auto expect = [&](bool good, const std::string& key, const std::string& text) {
      if (!good) problems.push_back({key, cat("layer ", i, " ", text)});
    };
    const std::string& type = c.layer_types[i];
    expect(std::ranges::find(names, type) != names.end(), "layer_types",
           cat("is \"", type, "\"; ", suggestion(type, names)));
    const bool has_capacity =
        type == "bounded" && (c.bounded.memory_capacity > 0 || c.bounded.memory_capacity_bytes > 0);
    expect(!has_window(type) || has_capacity || c.sliding_window > 0, "sliding_window",
           cat("is ", type, " and no sliding_window is set; 512 is a usual size"));
    const int64_t heads = c.layer_num_key_value_heads[i];
    const bool is_own_value = heads != c.num_key_value_heads;  // that one is checked for all
    expect(!is_own_value || (heads > 0 && c.num_attention_heads % heads == 0),
           "layer_num_key_value_heads",
           cat("has ", heads, " key/value heads, which do not divide ", c.num_attention_heads,
               " query heads"));
    for (const auto& [key, sources] : {std::pair("k_source_layers", &c.k_source_layers),
                                       std::pair("v_source_layers", &c.v_source_layers)}) {
      const int64_t source = (*sources)[i];
      expect(source >= 0 && source < c.num_hidden_layers, key,
             cat("reads layer ", source, "; there are layers 0 to ", layers - 1));
    }
  }
  if (problems.empty()) EdgeCheck(c, problems).run();
  if (problems.empty()) check_options(c, problems);
  return problems;
}

}  // namespace kvsmith
