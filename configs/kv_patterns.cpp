#include "configs/kv_patterns.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <sstream>

#include "core/text.h"

namespace kvsmith {
namespace {

const std::vector<std::string> kForms = {"mha",
                                         "gqa",
                                         "mqa",
                                         "cla-N",
                                         "trailing-reuse-N",
                                         "yoco",
                                         "mixattention",
                                         "local-global-N-1",
                                         "lckv",
                                         "lckv-sandwich-top",
                                         "lckv-sandwich-middle",
                                         "lckv-sandwich-bottom",
                                         "lckv-pizza-top",
                                         "lckv-pizza-middle",
                                         "lckv-pizza-bottom",
                                         "lckv-lasagna-top",
                                         "lckv-lasagna-middle",
                                         "lckv-lasagna-bottom",
                                         "fusedkv-lite",
                                         "fusedkv"};

/// N of "cla-N", when `name` has that form.
std::optional<int64_t> number_in(std::string_view name,
                                 std::string_view prefix,
                                 std::string_view suffix = "") {
  if (!name.starts_with(prefix) || !name.ends_with(suffix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  if (name.size() < suffix.size()) return std::nullopt;
  name.remove_suffix(suffix.size());
  int64_t value = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), value);
  if (error != std::errc{} || end != name.data() + name.size()) return std::nullopt;
  return value;
}

/// Expansion for a model of `layers` layers; each member returns false when the name is not its.
class Expansion {
 public:
  Expansion(const ModelConfig& config, std::vector<KeyProblem>& problems)
      : config_(config), layers_(config.num_hidden_layers), problems_(problems) {}

  LayerLists run() {
    const std::string& name = config_.pattern;
    const bool known = heads_only(name) || layer_pairs(name) || trailing(name) || yoco(name) ||
                       mixed(name) || local_global(name) || condensed(name) || fused(name);
    if (!known) {
      problems_.push_back(
          {"pattern", cat("no pattern is called \"", name, "\"; ", suggestion(name, kForms))});
    }
    return std::move(out_);
  }

 private:
  void expect(bool good, const std::string& key, const std::string& text) {
    if (!good) problems_.push_back({key, text});
  }
  void read_from(int64_t source) {
    out_.k_sources.push_back(source);
    out_.v_sources.push_back(source);
  }

  bool heads_only(const std::string& name) {
    const int64_t heads = config_.num_attention_heads, kv = config_.num_key_value_heads;
    if (name == "mha") {
      expect(kv == heads, "num_key_value_heads",
             cat("pattern \"mha\" has a key/value head per query head, ", heads, ", not ", kv,
                 "; leave one of the two keys out"));
    } else if (name == "mqa") {
      expect(kv == 1, "num_key_value_heads",
             cat("pattern \"mqa\" has one key/value head, not ", kv,
                 "; leave one of the two keys out"));
    } else if (name == "gqa") {
      expect(kv > 1 && kv < heads, "num_key_value_heads",
             cat("pattern \"gqa\" needs between 1 and ", heads, " key/value heads, not ", kv,
                 "; patterns \"mqa\" and \"mha\" stand for the ends"));
    } else {
      return false;
    }
    return true;
  }

  bool layer_pairs(const std::string& name) {
    const auto size = number_in(name, "cla-");
    if (!size) return false;
    expect(*size >= 2 && *size <= layers_, "pattern",
           cat("\"", name, "\" needs groups of 2 to ", layers_, " layers"));
    for (int64_t i = 0; i < layers_; ++i) read_from(*size < 2 ? i : i / *size * *size);
    return true;
  }

  bool trailing(const std::string& name) {
    const auto count = number_in(name, "trailing-reuse-");
    if (!count) return false;
    expect(*count >= 1 && *count < layers_, "pattern",
           cat("\"", name, "\" needs 1 to ", layers_ - 1, " layers that reuse"));
    const int64_t own = std::max<int64_t>(1, layers_ - *count);
    // the last layer below that is of the same kind, as in Gemma 3n
    const auto& types = config_.layer_types;
    for (int64_t i = 0; i < layers_; ++i) {
      int64_t source = std::min(i, own - 1);
      if (i >= own && static_cast<int64_t>(types.size()) == layers_) {
        while (source > 0 && types[static_cast<size_t>(source)] != types[static_cast<size_t>(i)]) {
          --source;
        }
      }
      read_from(source);
    }
    return true;
  }

  bool yoco(const std::string& name) {
    if (name != "yoco") return false;
    expect(layers_ >= 2, "pattern", "\"yoco\" needs at least 2 layers");
    const int64_t half = layers_ / 2;
    for (int64_t i = 0; i < layers_; ++i) {
      out_.types.emplace_back(i < half ? "sliding" : "full");
      read_from(std::min(i, half));
    }
    return true;
  }

  /// Sliding layers share in pairs, global layers (every fourth, not the first) share one cache
  /// (MixAttention arXiv:2409.15012; the rhythm is ours).
  bool mixed(const std::string& name) {
    if (name != "mixattention") return false;
    constexpr int64_t kPeriod = 4, kGlobal = 1;
    expect(layers_ > kGlobal, "pattern", "\"mixattention\" needs at least 2 layers");
    for (int64_t i = 0; i < layers_; ++i) {
      const bool global = i % kPeriod == kGlobal;
      out_.types.emplace_back(global ? "full" : "sliding");
      const bool second_of_pair = i % kPeriod == kGlobal + 2;
      read_from(global ? kGlobal : second_of_pair ? i - 1 : i);
    }
    return true;
  }

  bool local_global(const std::string& name) {
    const auto local = number_in(name, "local-global-", "-1");
    if (!local) return false;
    expect(*local >= 1 && *local < layers_, "pattern",
           cat("\"", name, "\" needs 1 to ", layers_ - 1, " local layers to each global one"));
    if (*local < 1 || *local >= layers_) return true;
    for (int64_t i = 0; i < layers_; ++i)
      out_.types.emplace_back((i + 1) % (*local + 1) == 0 ? "full" : "sliding");
    return true;
  }

  /// The layouts of arXiv:2410.14442: pizza has its layers of own keys and values at the bottom,
  /// sandwich half of them at each end; lasagna cuts the layers into groups.
  bool condensed(const std::string& name) {
    if (name != "lckv" && !name.starts_with("lckv-")) return false;
    if (std::ranges::find(kForms, name) == kForms.end()) return false;
    const std::string form = name == "lckv" ? "lckv-sandwich-top" : name;
    const int64_t own = config_.lckv_warmup_layers;
    expect(own < layers_, "lckv_warmup_layers",
           cat(own, " layers with keys and values of their own leave none of ", layers_,
               " to condense"));
    const auto target = [&](int64_t first, int64_t last) {
      if (form.ends_with("-top")) return last;
      return form.ends_with("-middle") ? (first + last) / 2 : first;
    };
    if (form.starts_with("lckv-lasagna")) {
      for (int64_t group = 0, first = 0; group <= own; ++group) {
        const int64_t end = layers_ * (group + 1) / (own + 1);
        for (int64_t i = first; i < end; ++i) read_from(target(first, end - 1));
        first = end;
      }
      return true;
    }
    const int64_t bottom = form.starts_with("lckv-pizza") ? own : (own + 1) / 2;
    const int64_t last = layers_ - 1 - (own - bottom);
    for (int64_t i = 0; i < layers_; ++i)
      read_from(i < bottom || i > last ? i : target(bottom, last));
    return true;
  }

  /// The upper half reads keys from the middle and values from the bottom (Lite), or learned
  /// mixtures of both.
  bool fused(const std::string& name) {
    if (name != "fusedkv-lite" && name != "fusedkv") return false;
    const int64_t least = name == "fusedkv" ? 4 : 2;  // mixes rows of two layers of the lower half
    expect(layers_ >= least, "pattern", cat("\"", name, "\" needs at least ", least, " layers"));
    const int64_t half = layers_ / 2;
    for (int64_t i = 0; i < layers_; ++i) {
      out_.types.emplace_back(i >= half && name == "fusedkv" ? "fused" : "full");
      out_.k_sources.push_back(i < half ? i : half - 1);
      out_.v_sources.push_back(i < half ? i : 0);
    }
    return true;
  }

  const ModelConfig& config_;
  int64_t layers_;
  std::vector<KeyProblem>& problems_;
  LayerLists out_;
};

}  // namespace

LayerLists expand_pattern(const ModelConfig& config, std::vector<KeyProblem>& problems) {
  return Expansion(config, problems).run();
}

LayerLists parse_lckv_layers(const std::string& text, std::vector<KeyProblem>& problems) {
  LayerLists out;
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, '_');) {
    const bool sliding = part.ends_with('s');
    const auto source = number_in(part, "", sliding ? "s" : "");
    if (!source) {
      problems.push_back({"layer_types", cat("\"", part, "\" in \"", text,
                                             "\" is no layer number, with or without an s")});
      return {};
    }
    out.types.emplace_back(sliding ? "sliding" : "full");
    out.k_sources.push_back(*source);
  }
  out.v_sources = out.k_sources;
  return out;
}

}  // namespace kvsmith
