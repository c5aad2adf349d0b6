#include "configs/head_reuse.h"

#include <algorithm>
#include <charconv>
#include <string_view>

#include "core/text.h"

namespace kvsmith {
namespace {

constexpr const char* kKey = "reused_heads";

/// Takes a whole number from the front of `text`.
std::optional<int64_t> take_number(std::string_view& text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || number < 0) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return number;
}

bool take_colon(std::string_view& text) {
  const bool found = text.starts_with(':');
  if (found) text.remove_prefix(1);
  return found;
}

}  // namespace

std::optional<ReusedHead> parse_reused_head(const std::string& text) {
  std::string_view rest = text;
  const auto layer = take_number(rest);
  if (!layer || !take_colon(rest)) return std::nullopt;
  const auto head = take_number(rest);
  if (!head || !(rest.empty() || rest == ":k" || rest == ":v")) return std::nullopt;
  return ReusedHead{.layer = *layer, .head = *head, .keys = rest != ":v", .values = rest != ":k"};
}

std::string to_string(const ReusedHead& head) {
  const char* stream = head.keys && head.values ? "" : head.keys ? ":k" : ":v";
  return cat(head.layer, ":", head.head, stream);
}

void check_reused_heads(const ModelConfig& config, std::vector<KeyProblem>& problems) {
  std::vector<ReusedHead> before;
  for (const auto& item : config.autoencoder.reused_heads) {
    const auto refuse = [&](const std::string& text) {
      problems.push_back({kKey, cat("item \"", item, "\" ", text)});
    };
    const auto read = parse_reused_head(item);
    if (!read) {
      refuse("is not LAYER:HEAD, LAYER:HEAD:k or LAYER:HEAD:v; \"3:1\" is head 1 of layer 3");
      continue;
    }
    if (read->layer < 1 || read->layer >= config.num_hidden_layers) {
      refuse(cat("names layer ", read->layer, " of ", config.num_hidden_layers,
                 "; a head is read from the layer below, so name layer 1 or a higher one"));
      continue;
    }
    const int64_t heads = config.layer_num_key_value_heads[static_cast<size_t>(read->layer)];
    if (read->head >= heads) {
      refuse(cat("names head ", read->head, "; layer ", read->layer, " has key/value heads 0 to ",
                 heads - 1));
      continue;
    }
    const bool is_again = std::ranges::any_of(before, [&](const ReusedHead& other) {
      return other.layer == read->layer && other.head == read->head &&
             ((other.keys && read->keys) || (other.values && read->values));
    });
    if (is_again) refuse("says again what another item says; leave one of them out");
    before.push_back(*read);
  }
}

std::string obstacle_to_reuse(const KvGraph& graph, int64_t layer, bool keys) {
  if (layer == 0) return "layer 0 has no layer below";
  const LayerSpec &reader = graph[layer], &below = graph[layer - 1];
  const auto named = [&](int64_t i) { return cat("layer ", i, " (", graph[i].kind, ")"); };
  const auto &kind = layer_kind(reader.kind), &kind_below = layer_kind(below.kind);
  if (!kind.has_rows || kind.row_format != kind_below.row_format)
    return cat(named(layer - 1), " keeps something else than ", named(layer));
  for (const int64_t i : {layer, layer - 1}) {
    if (keys ? graph.keeps_keys(i) : graph.keeps_values(i)) continue;
    return cat(named(i), " has no ", keys ? "keys" : "values", " of its own, it reads those of ",
               named(keys ? graph[i].k_source : graph[i].v_source));
  }
  if (reader.kv_heads != below.kv_heads) {
    return cat(named(layer), " has ", reader.kv_heads, " key/value heads and ", named(layer - 1),
               " has ", below.kv_heads);
  }
  if (keys && reader.rope_theta != below.rope_theta) {
    return cat("the keys of ", named(layer - 1), " are rotated with base ", below.rope_theta,
               ", not ", reader.rope_theta, " (0: no rotation)");
  }
  // their rows of this step stand elsewhere than in a cache, so heads would not line up
  for (const Slice& slice : graph.slices()) {
    if (!slice.is_cyclic || layer < slice.first || layer - 1 >= slice.last) continue;
    return cat(named(std::min(layer, slice.last - 1)), " is one of layers ", slice.first, " to ",
               slice.last - 1, ", which are run repeatedly because some read ahead");
  }
  return "";
}

void check_head_reuse(const ModelConfig& config,
                      const KvGraph& graph,
                      std::vector<KeyProblem>& problems) {
  for (const auto& item : config.autoencoder.reused_heads) {
    const ReusedHead head = *parse_reused_head(item);
    const auto refuse = [&](const std::string& text) {
      problems.push_back({kKey, cat("item \"", item, "\" cannot be: ", text)});
    };
    const std::string& kind = graph[head.layer].kind;
    if (kind != "autoencoded") {
      refuse(cat("layer ", head.layer, " is ", kind, ", and only autoencoded layers read single ",
                 "heads of the layer below; make it autoencoded or leave the item out"));
      continue;
    }
    const std::string of_keys = head.keys ? obstacle_to_reuse(graph, head.layer, true) : "";
    const std::string of_values = head.values ? obstacle_to_reuse(graph, head.layer, false) : "";
    if (of_keys.empty() && of_values.empty()) continue;
    std::string remedy = "; leave the item out";
    if (head.keys && head.values && (of_keys.empty() || of_values.empty())) {
      const ReusedHead rest{head.layer, head.head, of_keys.empty(), of_values.empty()};
      remedy = cat("; \"", to_string(rest), "\" is possible");
    }
    refuse((of_keys.empty() ? of_values : of_keys) + remedy);
  }
}

}  // namespace kvsmith
