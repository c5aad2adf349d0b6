#include "convert/convert.h"

#include <algorithm>

#include <torch/types.h>

#include "configs/run_config.h"
#include "convert/attention_weights.h"
#include "convert/autoencoded.h"
#include "convert/latent.h"
#include "convert/tied.h"
#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

[[noreturn]] void refuse(const std::string& what, const std::string& remedy) {
  throw Error(ExitCode::kConfig, {what, "convert", remedy});
}

/// Layers that read the keys (values) of `owner`.
std::vector<int64_t> readers_of(const KvGraph& graph, int64_t owner, bool keys) {
  std::vector<int64_t> out;
  for (int64_t layer = 0; layer < graph.size(); ++layer)
    if ((keys ? graph[layer].k_source : graph[layer].v_source) == owner) out.push_back(layer);
  return out;
}

void check_source(const DecoderImpl& source) {
  for (int64_t i = 0; i < source.graph().size(); ++i) {
    const LayerSpec& spec = source.graph()[i];
    const bool own = spec.k_source == i && spec.v_source == i;
    if ((spec.kind != "full" && spec.kind != "sliding") || !own) {
      refuse(
          cat("layer ", i, " of the source is ", spec.kind, own ? "" : " and reads other layers"),
          "convert a model whose layers all have full or sliding attention of their own");
    }
  }
  if (source.config().attention_k_eq_v)
    refuse("the source makes values from keys (attention_k_eq_v)", "convert another model");
}

void check_target(const DecoderImpl& source, const ModelConfig& target, const KvGraph& graph) {
  const auto &from = source.config(), rest = sizes_of(target);
  auto wanted = sizes_of(from);
  wanted.num_key_value_heads = rest.num_key_value_heads;
  if (rest != wanted) {
    std::vector<std::string> changes, undo;
    for (const auto& difference : differences(run_config_of(wanted), run_config_of(rest), true)) {
      changes.push_back(cat(difference.key, ": ", difference.before, " -> ", difference.after));
      undo.push_back(cat("'", difference.key, "=", difference.before, "'"));
    }
    refuse("more than the KV graph would change: " + join(changes, "; "),
           "leave these keys out of the recipe, or add --set " + join(undo, " "));
  }
  const std::vector<std::string> kinds = {"full",    "sliding",    "latent",
                                          "bounded", "rattention", "autoencoded"};
  for (int64_t i = 0; i < graph.size(); ++i) {
    const LayerSpec &is = source.graph()[i], &becomes = graph[i];
    if (std::ranges::find(kinds, becomes.kind) == kinds.end())
      refuse(cat("layer ", i, " would be ", becomes.kind, ", which cannot begin from attention"),
             "choose one of " + join(kinds));
    if (from.attention_sink_logits && becomes.kind != "full" && becomes.kind != "sliding")
      refuse(cat("layer ", i, " would be ", becomes.kind, ", which has no sink logits"),
             "choose full or sliding layers");
    if (becomes.kind != "latent" && is.kv_heads % becomes.kv_heads != 0) {
      refuse(cat("layer ", i, " has ", is.kv_heads, " key/value heads, which ", becomes.kv_heads,
                 " cannot share evenly"),
             cat("choose a divisor of ", is.kv_heads, " for num_key_value_heads"));
    }
    if (becomes.rope_theta != is.rope_theta) {
      refuse(cat("layer ", i, " would have rope_theta ", becomes.rope_theta, " instead of ",
                 is.rope_theta),
             "queries and keys are trained for their angles; leave rope_local_theta and "
             "layer_rope_theta out");
    }
    if (becomes.reuses_heads()) {
      refuse(cat("layer ", i, " would reuse heads of the layer below"),
             "convert without, then train with train.init_from");
    }
  }
}

class Converter {
 public:
  Converter(const DecoderImpl& source,
            const ModelConfig& target,
            const Moments& moments,
            Pooling pooling,
            uint64_t seed)
      : source_(source), moments_(moments), pooling_(pooling) {
    const torch::NoGradGuard no_grad;
    out_.model = Decoder(target);
    initialize(*out_.model, seed);
    out_.model->eval();
    sources_ = layers_ = read_attention(source);
  }

  Conversion run() {
    const torch::NoGradGuard no_grad;
    const KvGraph& graph = out_.model->graph();
    for (int64_t layer = 0; layer < graph.size(); ++layer) {
      if (graph[layer].kind == "latent") {
        if (graph.is_owner(layer)) make_latents(layer);
        continue;
      }
      if (graph[layer].k_eq_v) {
        if (graph.is_owner(layer)) tie(layer);
        continue;
      }
      if (graph.keeps_keys(layer)) share(layer, /*is_keys=*/true);
      if (graph.keeps_values(layer)) share(layer, /*is_keys=*/false);
    }
    for (int64_t layer = 0; layer < graph.size(); ++layer)
      if (graph[layer].kind != "latent") write_layer(layer);
    note_layers();
    fill();
    return std::move(out_);
  }

 private:
  AttentionWeights& of(int64_t layer) { return layers_[static_cast<size_t>(layer)]; }
  const AttentionWeights& source_of(int64_t layer) const {
    return sources_[static_cast<size_t>(layer)];
  }

  /// A head of a layer of the source, and those that `head` of `kv_heads` stands in for.
  struct Place {
    int64_t layer = 0;
    size_t head = 0;
  };
  std::vector<Place> places_of(const std::vector<int64_t>& readers,
                               size_t head,
                               int64_t kv_heads) const {
    std::vector<Place> out;
    for (const int64_t layer : readers) {
      const size_t group = source_of(layer).keys.size() / static_cast<size_t>(kv_heads);
      for (size_t i = head * group; i < (head + 1) * group; ++i) out.push_back({layer, i});
    }
    return out;
  }

  Member member_of(const Place& place, bool is_keys) const {
    const auto& layer = source_of(place.layer);
    if (!is_keys) return {place.layer, layer.values[place.head], layer.value_cost(place.head)};
    const auto input = moments_.between(place.layer, place.layer);
    return {place.layer, layer.keys[place.head], layer.key_cost(place.head, input)};
  }

  /// The keys, or values, that layer `owner` keeps for all that read them.
  void share(int64_t owner, bool is_keys) {
    const auto readers = readers_of(out_.model->graph(), owner, is_keys);
    const int64_t heads = out_.model->graph()[owner].kv_heads;
    const bool is_normed = is_keys ? source_.config().qk_norm : source_.config().v_norm;
    const bool is_mean = pooling_ == Pooling::kMean || is_normed;
    std::vector<at::Tensor>& shared = (is_keys ? keys_ : values_)[owner];
    for (size_t head = 0; head < static_cast<size_t>(heads); ++head) {
      const auto places = places_of(readers, head, heads);
      std::vector<Member> members;
      for (const Place& place : places) members.push_back(member_of(place, is_keys));
      if (members.size() == 1 && members[0].layer == owner) {
        shared.push_back(members[0].weight);
      } else if (is_mean) {
        shared.push_back(mean_of(members));
      } else {
        shared.push_back(is_keys ? fitted_keys(places, members, owner)
                                 : fitted_values(places, members, owner));
      }
    }
    note(is_keys ? "k_proj" : "v_proj", owner, readers, heads, is_mean);
  }

  /// The keys that layer `owner` keeps, of which values are made, for all that read them.
  void tie(int64_t owner) {
    const auto readers = readers_of(out_.model->graph(), owner, /*keys=*/true);
    const int64_t heads = out_.model->graph()[owner].kv_heads;
    for (size_t head = 0; head < static_cast<size_t>(heads); ++head) {
      const auto places = places_of(readers, head, heads);
      std::vector<Member> keys, values;
      for (const Place& place : places) {
        keys.push_back(member_of(place, true));
        values.push_back(member_of(place, false));
      }
      const TiedProjection fitted = fit_tied(keys, values, owner, moments_);
      for (size_t i = 0; i < places.size(); ++i) {
        of(places[i].layer).turn_queries(places[i].head, fitted.turns[i]);
        of(places[i].layer).read_out(places[i].head, fitted.readouts[i]);
      }
      keys_[owner].push_back(fitted.weight);
    }
    std::vector<std::string> names;
    for (const int64_t layer : readers) names.push_back(std::to_string(layer));
    out_.origins.push_back({mixer_name(owner) + "k_proj",
                            "fit of keys and values together of layers " + join(names),
                            /*is_fitted=*/true});
  }

  at::Tensor fitted_keys(const std::vector<Place>& places,
                         const std::vector<Member>& members,
                         int64_t owner) {
    const SharedKeys fitted = fit_keys(members, owner, moments_);
    for (size_t i = 0; i < places.size(); ++i)
      of(places[i].layer).turn_queries(places[i].head, fitted.turns[i]);
    return fitted.weight;
  }

  at::Tensor fitted_values(const std::vector<Place>& places,
                           const std::vector<Member>& members,
                           int64_t owner) {
    const auto fitted = fit_subspace(members, owner, source_.config().head_dim, moments_);
    for (size_t i = 0; i < places.size(); ++i)
      of(places[i].layer).read_out(places[i].head, fitted.readouts[i]);
    return fitted.weight;
  }

  static at::Tensor mean_of(const std::vector<Member>& members) {
    at::Tensor sum = members[0].weight;
    for (size_t i = 1; i < members.size(); ++i) sum = sum + members[i].weight;
    return sum / static_cast<double>(members.size());
  }

  /// Says where keys or values come from, unless it is from the same place as before.
  void note(const char* projection,
            int64_t owner,
            const std::vector<int64_t>& readers,
            int64_t heads,
            bool is_mean) {
    const auto before = static_cast<int64_t>(source_of(owner).keys.size());
    if (readers == std::vector<int64_t>{owner} && heads == before) return;
    std::vector<std::string> names;
    for (const int64_t layer : readers) names.push_back(std::to_string(layer));
    out_.origins.push_back({mixer_name(owner) + projection,
                            cat(is_mean ? "mean" : "fit", " of ",
                                before == heads ? "each head" : cat(before / heads, " heads each"),
                                " of layers ", join(names)),
                            !is_mean});
  }

  /// Says which layers become something else.
  void note_layers() {
    const auto text = [](const LayerSpec& spec) {
      return cat(spec.kind, spec.window > 0 ? cat(" (window ", spec.window, ")") : "");
    };
    std::map<std::string, std::vector<std::string>> changes;
    for (int64_t i = 0; i < source_.graph().size(); ++i) {
      const auto before = text(source_.graph()[i]), after = text(out_.model->graph()[i]);
      if (before != after) changes[before + " -> " + after].push_back(std::to_string(i));
    }
    for (const auto& [change, layers] : changes)
      out_.origins.push_back({"layers " + join(layers), change});
  }

  void make_latents(int64_t owner) {
    std::vector<LatentReader> readers;
    for (const int64_t layer : readers_of(out_.model->graph(), owner, true))
      readers.push_back({layer, source_of(layer)});
    convert_to_latent(out_.model->config(), owner, out_.model->graph()[owner].rope_theta, readers,
                      moments_, made_);
    out_.origins.push_back({mixer_name(owner) + "*",
                            cat("fit of keys and values of ",
                                readers.size() == 1 ? "the layer" : cat(readers.size(), " layers")),
                            /*is_fitted=*/true});
  }

  void write_layer(int64_t layer) {
    const auto& weights = of(layer);
    const int64_t width = source_.config().hidden_size;
    const std::string name = mixer_name(layer);
    write_projection(made_, name + "q_proj", weights.queries, width);
    const bool is_coded = out_.model->graph()[layer].kind == "autoencoded" &&
                          out_.model->config().autoencoder.autoencoder_kind == "linear";
    const auto write = [&](const std::string& stream, const auto& all, const at::Tensor& norm) {
      const auto heads = all.find(layer);
      if (heads == all.end()) return;
      write_projection(made_, stream + "_proj", heads->second, width);
      if (is_coded) {
        fit_linear_coder(stream, heads->second, norm, moments_.between(layer, layer),
                         out_.model->config().autoencoder.autoencoder_dim, made_);
      }
    };
    write(name + "k", keys_, weights.key_norm);
    write(name + "v", values_, weights.value_norm);
    write_outputs(made_, name, weights);
  }

  /// Gives every parameter what was made for it, what the source has under its name, or leaves it
  /// as initialised.
  void fill() {
    std::map<std::string, at::Tensor> there;
    for (const auto& [name, tensor] : named_parameters(source_)) there[name] = tensor.detach();
    std::map<std::string, int64_t> fresh;  // by the end of the name
    for (auto& [name, tensor] : named_parameters(*out_.model)) {
      const auto made = made_.find(name);
      if (made != made_.end()) {
        tensor.copy_(made->second);
        made_.erase(made);
      } else if (const auto found = there.find(name);
                 found != there.end() && found->second.sizes() == tensor.sizes()) {
        tensor.copy_(found->second);
      } else {
        ++fresh[name.substr(name.find("self_attn") == name.npos ? 0 : name.find("self_attn"))];
      }
    }
    if (!made_.empty()) {
      throw Error(ExitCode::kInternal,
                  {"no parameter " + made_.begin()->first, "convert", "report this"});
    }
    for (const auto& [name, count] : fresh)
      out_.origins.push_back({name, cat("new, in ", count, " layers")});
  }

  const DecoderImpl& source_;
  const Moments& moments_;
  Pooling pooling_;
  Conversion out_;
  std::vector<AttentionWeights> sources_;  ///< as they were
  std::vector<AttentionWeights> layers_;   ///< queries and outputs as they become
  std::map<int64_t, std::vector<at::Tensor>> keys_, values_;  ///< of each owner
  std::map<std::string, at::Tensor> made_;                    ///< by parameter name
};

}  // namespace

ModelConfig sizes_of(const ModelConfig& source) {
  ModelConfig out = source;
  const ModelConfig plain;
  out.pattern = plain.pattern;
  out.layer_types = plain.layer_types;
  out.kv_source_layers = plain.kv_source_layers;
  out.k_source_layers = plain.k_source_layers;
  out.v_source_layers = plain.v_source_layers;
  out.layer_num_key_value_heads = plain.layer_num_key_value_heads;
  const auto& theta = source.layer_rope_theta;
  if (std::ranges::all_of(theta, [&](double base) { return base == source.rope_theta; }))
    out.layer_rope_theta = plain.layer_rope_theta;
  out.attention_k_eq_v = plain.attention_k_eq_v;
  out.sliding_window = plain.sliding_window;
  out.num_sink_tokens = plain.num_sink_tokens;
  out.rope_local_theta = plain.rope_local_theta;
  out.lckv_warmup_layers = plain.lckv_warmup_layers;
  out.forward_passes = plain.forward_passes;
  out.backward_passes = plain.backward_passes;
  out.latent = plain.latent;
  out.latent.latent_norm = false;  // it would take away the scale that the fit has found
  out.linear = plain.linear;
  out.bounded = plain.bounded;
  out.autoencoder = plain.autoencoder;
  return out;
}

void check_convertible(const DecoderImpl& source, const ModelConfig& target, Pooling pooling) {
  const KvGraph graph(target);
  check_source(source);
  check_target(source, target, graph);
  for (int64_t layer = 0; layer < graph.size(); ++layer) {
    int64_t heads = 0;
    for (const int64_t reader : readers_of(graph, layer, /*keys=*/true))
      heads += source.graph()[reader].kv_heads;
    if (heads > 0 && graph[layer].kind == "latent") check_latent_sizes(target, heads);
  }
  const bool latent = std::ranges::count(target.layer_types, "latent") > 0;
  if (latent && pooling == Pooling::kMean)
    refuse("latents are no mean of projections", "choose --pooling fit");
  if (target.attention_k_eq_v && pooling == Pooling::kMean)
    refuse("keys that values are made of are no mean of projections", "choose --pooling fit");
  if (target.attention_k_eq_v && (target.qk_norm || target.v_norm))
    refuse("keys or values are normed, each in a way of its own", "leave attention_k_eq_v out");
}

Moments::Pairs moments_needed(const DecoderImpl& source, const ModelConfig& target) {
  const KvGraph graph(target);
  Moments::Pairs out;
  for (int64_t layer = 0; layer < source.graph().size(); ++layer) {
    const LayerSpec& spec = graph[layer];
    for (const int64_t owner : {spec.k_source, spec.v_source}) out.insert({owner, layer});
    out.insert({layer, layer});
  }
  return out;
}

Conversion convert(const DecoderImpl& source,
                   const ModelConfig& target,
                   const Moments& moments,
                   Pooling pooling,
                   uint64_t seed) {
  check_convertible(source, target, pooling);
  return Converter(source, target, moments, pooling, seed).run();
}

}  // namespace kvsmith
