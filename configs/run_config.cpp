#include "configs/run_config.h"

#include <algorithm>

#include "configs/kv_graph.h"
#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

/// Calls visit("model", config.model) and so on: the one list of sections.
template <class Config, class Visit>
void for_each_section(Config& config, Visit&& visit) {
  visit("model", config.model);
  visit("data", config.data);
  visit("train", config.train);
  visit("distill", config.distill);
  visit("lora", config.lora);
  visit("preference", config.preference);
}

/// What somebody may have meant by `path`, which is not among `keys`.
std::string advice_on(const std::string& path, const std::vector<KeyValue>& keys) {
  const std::vector<std::string> sections = {"model",   "data", "train",
                                             "distill", "lora", "preference"};
  const size_t dot = path.find('.');
  const std::string section = path.substr(0, dot), name = path.substr(dot + 1);
  const bool known_section = std::ranges::find(sections, section) != sections.end();
  const auto meant = [&](const KeyValue& key) {
    return dot == path.npos ? "write " + key.path : "did you mean \"" + key.path + "\"?";
  };
  const auto may_be_meant = [&](const KeyValue& key) {
    return !known_section || key.path.starts_with(section + ".");
  };
  std::vector<std::string> names;
  for (const auto& key : keys) {
    if (key.key.name == name) return meant(key);
    if (may_be_meant(key)) names.emplace_back(key.key.name);
  }
  const std::string close = nearest(name, names);
  for (const auto& key : keys) {
    if (key.key.name == close && may_be_meant(key)) return meant(key);
  }
  return known_section ? cat("keys of [", section, "]: ", join(names))
                       : suggestion(section, sections);
}

void complain_of_unknown_keys(const Settings& settings, std::vector<Complaint>& complaints) {
  const auto keys = all_keys();
  for (const auto& [path, setting] : settings.entries()) {
    if (std::ranges::find(keys, path, &KeyValue::path) != keys.end()) continue;
    complaints.push_back(
        {setting.where, cat("unknown key \"", path, "\"; ", advice_on(path, keys))});
  }
}

std::string divisors(int64_t n) {
  std::vector<std::string> out;
  for (int64_t i = 1; i <= n; ++i) {
    if (n % i == 0) out.push_back(std::to_string(i));
  }
  return join(out);
}

template <class Expect>
void check_distillation(const DistillConfig& d, const Expect& expect) {
  expect(d.mixer_loss == 0 || !d.teacher.empty(), "distill.mixer_loss",
         "there is no teacher to compare with; set distill.teacher");
  expect(d.cache.empty() || d.top_k > 0, "distill.cache",
         "keeps the likeliest tokens only; set distill.top_k, such as 64");
  expect(d.cache.empty() || d.mixer_loss == 0, "distill.cache",
         "keeps no outputs of layers, which distill.mixer_loss compares; leave one of them out");
}

template <class Expect>
void check_preference(const RunConfig& config, const Expect& expect) {
  const auto& p = config.preference;
  const auto& t = config.train;
  if (!p.is_wanted()) {
    expect(p.reference.empty(), "preference.reference",
           "nothing is compared with it; set preference.method, such as \"dpo\"");
    expect(p.cache.empty(), "preference.cache",
           "there is nothing to keep; set preference.method, such as \"dpo\"");
    return;
  }
  expect(config.distill.teacher.empty(), "distill.teacher",
         "a run learns from a teacher or from pairs of answers; leave one of them out");
  expect(!p.reference.empty() || !t.init_from.empty(), "preference.method",
         "there is nothing to compare with; set train.init_from, or preference.reference");
  expect(t.batch_size % 2 == 0, "train.batch_size",
         cat("a pair is two sequences, and batch_size ", t.batch_size, " is odd"));
  expect(t.micro_batch() % 2 == 0, "train.micro_batch_size",
         cat("a pair is two sequences, and micro_batch_size ", t.micro_batch(), " is odd"));
  expect(!config.data.document_mask, "data.document_mask",
         "a sequence of a pair holds one document; leave it out");
  expect(config.data.packing == "wrapped", "data.packing",
         "a pair is two sequences that hold nothing else; leave it at \"wrapped\"");
}

template <class Expect>
void check_adapter(const RunConfig& config, const Expect& expect) {
  const auto& lora = config.lora;
  if (lora.rank == 0) return;
  expect(!config.train.init_from.empty(), "lora.rank",
         "an adapter needs a model to adapt; set train.init_from");
  expect(!lora.targets.empty(), "lora.targets", "nothing would learn; name maps such as *.q_proj");
  expect(config.train.trainable.empty(), "train.trainable",
         "with lora.rank the adapter learns and nothing else; leave it empty");
  expect(!config.train.gradient_checkpointing || lora.dropout == 0, "train.gradient_checkpointing",
         cat("what is computed again would drop other elements; set it to false, or lora.dropout = "
             "0 (it is ",
             lora.dropout, ")"));
}

/// Layers that read ahead are run several times over the same tokens.
template <class Place>
void check_adapter_passes(const RunConfig& config,
                          const Place& place,
                          std::vector<Complaint>& complaints) {
  if (config.lora.rank == 0 || config.lora.dropout == 0 || !KvGraph(config.model).is_cyclic())
    return;
  complaints.push_back({place("lora.dropout"),
                        "layers that read ahead are run several times over the same tokens, and "
                        "each pass would drop other elements; set it to 0"});
}

/// Relations between keys. `place` tells where a key was set.
template <class Place>
void check_relations(const RunConfig& config,
                     const Place& place,
                     std::vector<Complaint>& complaints) {
  const auto& m = config.model;
  const auto& t = config.train;
  const auto expect = [&](bool good, const std::string& key, const std::string& text) {
    if (!good) complaints.push_back({place(key), text});
  };
  expect(m.num_attention_heads % m.num_key_value_heads == 0, "model.num_key_value_heads",
         cat(m.num_key_value_heads, " key/value heads do not divide ", m.num_attention_heads,
             " query heads; choose one of ", divisors(m.num_attention_heads)));
  expect(m.head_dim > 0, "model.head_dim",
         cat("hidden_size ", m.hidden_size, " is too small for ", m.num_attention_heads, " heads"));
  expect(m.head_dim % 2 == 0, "model.head_dim",
         cat("head_dim ", m.head_dim, " is odd, and the rotary embedding turns pairs"));
  expect(t.batch_size % t.micro_batch() == 0, "train.micro_batch_size",
         cat("micro_batch_size ", t.micro_batch_size, " does not divide batch_size ", t.batch_size,
             "; choose one of ", divisors(t.batch_size), ", or 0 for the whole batch"));
  expect(t.sequence_length <= m.max_position_embeddings, "train.sequence_length",
         cat("sequence_length ", t.sequence_length, " is longer than max_position_embeddings ",
             m.max_position_embeddings));
  expect(
      t.min_learning_rate <= t.learning_rate, "train.min_learning_rate",
      cat("min_learning_rate ", t.min_learning_rate, " is above learning_rate ", t.learning_rate));
  const int64_t steps = t.total_steps();
  expect(steps == 0 || t.warmup_steps <= steps, "train.warmup_steps",
         cat("warmup_steps ", t.warmup_steps, " is more than the ", steps,
             " steps of the run; lower it, or train longer"));
  expect(!t.gradient_checkpointing || m.dropout == 0, "train.gradient_checkpointing",
         cat("what is computed again would drop other elements; set it to false, or dropout = 0 "
             "(it is ",
             m.dropout, ")"));
  expect(!t.gradient_checkpointing || (t.reconstruction_loss == 0 && t.kv_loss == 0),
         "train.gradient_checkpointing",
         "auxiliary losses are taken from what is not kept; set it to false, or leave "
         "reconstruction_loss and kv_loss at 0");
  expect(!t.gradient_checkpointing || config.distill.mixer_loss == 0,
         "train.gradient_checkpointing",
         "outputs of layers are not kept, and distill.mixer_loss compares them; set one of them to "
         "0 or false");
  expect(t.early_stopping_patience == 0 || t.validate_every > 0, "train.early_stopping_patience",
         "counts validations, and there are none on the way; set train.validate_every");
  check_distillation(config.distill, expect);
  check_adapter(config, expect);
  check_preference(config, expect);
  const auto& d = config.data;
  expect(d.weights.empty() || d.weights.size() == d.corpus.size(), "data.weights",
         cat(d.weights.size(), " weights for ", d.corpus.size(), " corpora; give one each"));
}

/// Layers that read ahead are exact after as many passes as tokens: more would repeat work.
template <class Place>
void check_passes(const RunConfig& config, const Place& place, std::vector<Complaint>& complaints) {
  const int64_t passes = config.model.forward_passes + config.model.backward_passes;
  if (passes <= config.train.sequence_length || !KvGraph(config.model).is_cyclic()) return;
  complaints.push_back(
      {place("model.forward_passes"),
       cat("forward_passes + backward_passes = ", passes, " is more than a sequence of ",
           config.train.sequence_length, " tokens needs; lower forward_passes")});
}

/// A loss that no layer has would change nothing.
template <class Place>
void check_auxiliary_losses(const RunConfig& config,
                            const Place& place,
                            std::vector<Complaint>& complaints) {
  const auto& m = config.model;
  const KvGraph graph(m);
  const auto expect = [&](bool good, const std::string& key, const std::string& text) {
    if (!good) complaints.push_back({place(key), text});
  };
  bool has_codes = false;
  for (int64_t i = 0; i < graph.size(); ++i) has_codes |= graph[i].kind == "autoencoded";
  expect(config.train.reconstruction_loss == 0 || has_codes, "train.reconstruction_loss",
         "no layer has codes to reconstruct from; leave it at 0, or set model.layer_types = "
         "[\"autoencoded\"]");
  if (config.train.kv_loss == 0) return;
  expect(graph.is_cyclic(), "train.kv_loss",
         "no layer reads rows from further up, so nothing is computed in several passes; leave it "
         "at 0, or choose a model.pattern such as \"lckv\"");
  expect(!graph.is_cyclic() || m.forward_passes + m.backward_passes > 1, "train.kv_loss",
         "compares two passes, and there is one; raise model.forward_passes or "
         "model.backward_passes");
}

RunConfig resolve(const Settings& settings, RunConfig config = {}) {
  std::vector<Complaint> complaints;
  complain_of_unknown_keys(settings, complaints);
  for_each_section(config, [&](const std::string& section, auto& value) {
    read_section(settings, section, value, complaints);
  });
  if (complaints.empty()) {
    const auto problems = fill_in(config.model);
    const auto place = [&](const std::string& key) {
      const Setting* setting = settings.find(key);
      return setting ? setting->where + ": " + key : key + " (default)";
    };
    check_relations(config, place, complaints);
    for (const auto& problem : problems)
      complaints.push_back({place("model." + problem.key), problem.text});
    if (complaints.empty()) {
      check_passes(config, place, complaints);
      check_adapter_passes(config, place, complaints);
      check_auxiliary_losses(config, place, complaints);
    }
  }
  detail::throw_all(complaints);
  return config;
}

}  // namespace

RunConfig load_run_config(const std::vector<std::filesystem::path>& files,
                          const std::vector<std::string>& assignments,
                          const RunConfig& base) {
  Settings settings;
  for (const auto& file : files) {
    if (file.extension() == ".h5") {
      throw Error(ExitCode::kConfig,
                  {"is a corpus, and a configuration in TOML is expected", file.string(),
                   cat("give --set data.corpus=", file.string())});
    }
    settings.merge(Settings::from_file(file));
  }
  for (const auto& assignment : assignments) settings.set(assignment);
  return resolve(settings, base);
}

RunConfig parse_run_config(const std::string& toml, const std::string& source) {
  return resolve(Settings::from_text(toml, source));
}

RunConfig run_config_of(const ModelConfig& model) {
  RunConfig config;
  config.model = model;
  config.train.sequence_length = model.max_position_embeddings;
  return config;
}

std::vector<std::string> advice(const RunConfig& config) {
  std::vector<std::string> out;
  const KvGraph graph(config.model);
  const int64_t tokens = config.train.sequence_length;
  int64_t widest = 0;
  for (int64_t i = 0; i < graph.size(); ++i) widest = std::max(widest, graph[i].window);
  if (widest >= tokens) {
    out.push_back(cat("a window of ", widest, " tokens is not shorter than sequence_length ",
                      tokens, ": in training such layers see everything, as full ones do"));
  }
  if (graph.is_cyclic() && config.model.backward_passes == 1) {
    out.emplace_back(
        "backward_passes = 1: keys that are read from below get no gradient through "
        "their readers; 2 is usual");
  }
  return out;
}

std::string to_toml(const RunConfig& config) {
  std::string out;
  for_each_section(config, [&](const std::string& section, const auto& value) {
    out += (out.empty() ? "[" : "\n[") + section + "]\n";
    for (const auto& key : list_section(section, value)) {
      out += cat(key.key.name, " = ", to_toml(key.value), "\n");
    }
  });
  return out;
}

std::vector<KeyValue> all_keys(const RunConfig& config) {
  std::vector<KeyValue> keys;
  for_each_section(config, [&](const std::string& section, const auto& value) {
    for (auto& key : list_section(section, value)) keys.push_back(std::move(key));
  });
  return keys;
}

std::vector<Difference> differences(const RunConfig& before, const RunConfig& after, bool all) {
  const auto old_keys = all_keys(before), new_keys = all_keys(after);
  std::vector<Difference> out;
  for (size_t i = 0; i < old_keys.size(); ++i) {
    const bool counts = all || old_keys[i].key.shapes_result;
    if (counts && old_keys[i].value != new_keys[i].value) {
      out.push_back({old_keys[i].path, to_toml(old_keys[i].value), to_toml(new_keys[i].value)});
    }
  }
  return out;
}

std::string configuration_reference() {
  std::string out, section;
  for (const auto& key : all_keys()) {
    const std::string here = key.path.substr(0, key.path.find('.'));
    if (here != section) {
      out += cat("\n## [", here,
                 "]\n\n| key | default | expected | meaning |\n| --- | --- | --- | --- |\n");
      section = here;
    }
    out += cat("| `", key.key.name, "` | `", to_toml(key.value), "` | ", key.expected, " | ",
               key.key.help, " |\n");
  }
  return out;
}

}  // namespace kvsmith
