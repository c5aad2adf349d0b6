#include "configs/kv_graph.h"

#include <algorithm>

#include "configs/head_reuse.h"
#include "configs/kv_checks.h"
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
  repeat(c.layer_types, c);  // patterns look at kinds
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
    if (bytes.token == 0) return 0;  // head_dim 0 is complained of elsewhere
    return (c.bounded.memory_capacity_bytes / kv_heads - bytes.besides) / bytes.token;
  }
  if (c.bounded.memory_capacity > 0)
    return c.bounded.memory_capacity - c.num_sink_tokens - c.linear.num_slots;
  return c.sliding_window;
}

/// Latents have as many as there are groups of query heads that read one.
int64_t heads_kept(const std::string& kind, int64_t key_value_heads) {
  return kind == "latent" ? 1 : kind == "grouped_latent" ? 2 : key_value_heads;
}

void check_bounded(const ModelConfig& c, const KvGraph& graph, std::vector<KeyProblem>& problems) {
  const int64_t tokens = c.bounded.memory_capacity, bytes = c.bounded.memory_capacity_bytes;
  const Expect expect{problems};
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
                       .kv_heads = heads_kept(kind, config.layer_num_key_value_heads[i]),
                       .window = slides ? window : 0,
                       .sinks = slides ? config.num_sink_tokens : 0,
                       .rope_theta = config.layer_rope_theta[i],
                       .k_eq_v = config.attention_k_eq_v && kind == "full"});
  }
  for (const auto& item : config.autoencoder.reused_heads) {
    const ReusedHead head = *parse_reused_head(item);
    LayerSpec& spec = layers_[static_cast<size_t>(head.layer)];
    if (head.keys) spec.reused_keys.push_back(head.head);
    if (head.values) spec.reused_values.push_back(head.head);
  }
  for (LayerSpec& spec : layers_) {
    std::ranges::sort(spec.reused_keys);
    std::ranges::sort(spec.reused_values);
  }
  uses_.resize(layers_.size());
  for (int64_t reader = 0; reader < size(); ++reader) {
    const LayerSpec& spec = (*this)[reader];
    Use& k = uses_[static_cast<size_t>(spec.k_source)];
    Use& v = uses_[static_cast<size_t>(spec.v_source)];
    k.keys = v.values = true;
    if (spec.kind == "fused") k.values = v.keys = true;
    std::vector<int64_t>& sources = uses_[static_cast<size_t>(reader)].sources;
    sources = {spec.k_source};
    if (spec.v_source != spec.k_source) sources.push_back(spec.v_source);
    if (spec.reuses_heads()) sources.push_back(reader - 1);
    for (const int64_t source : sources) uses_[static_cast<size_t>(source)].last_reader = reader;
  }
  slices_ = cut();
}

int64_t KvGraph::key_heads(int64_t layer) const {
  const LayerSpec& spec = (*this)[layer];
  return keeps_keys(layer) ? spec.kv_heads - static_cast<int64_t>(spec.reused_keys.size()) : 0;
}

int64_t KvGraph::value_heads(int64_t layer) const {
  const LayerSpec& spec = (*this)[layer];
  return keeps_values(layer) ? spec.kv_heads - static_cast<int64_t>(spec.reused_values.size()) : 0;
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
  if (problems.empty()) check_reused_heads(c, problems);
  if (!problems.empty()) return problems;
  const KvGraph graph(c);
  check_edges(graph, problems);
  if (problems.empty()) {
    check_options(c, graph, problems);
    check_bounded(c, graph, problems);
    check_head_reuse(c, graph, problems);
  }
  return problems;
}

}  // namespace kvsmith
