#include "evaluate/sweep.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "cache/cache_options.h"
#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/text.h"
#include "evaluate/result_file.h"

namespace kvsmith {
namespace {

namespace fs = std::filesystem;

/// Only letters that every file system takes.
std::string plain(std::string name) {
  const auto is_plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '-' || c == '_';
  };
  std::ranges::replace_if(name, [&](char c) { return !is_plain(c); }, '_');
  return name;
}

/// `codec` and `seed` where the method names none.
CacheConfig cache_of(const std::string& method,
                     const std::string& codec,
                     std::optional<double> budget,
                     int64_t seed) {
  auto words = words_of(method);
  const CacheConfig own = cache_settings_of(words);
  if (own.codec_k == "model" && own.codec_v == "model") words.push_back(codec);
  words.insert(words.begin(), cat("seed=", seed));
  if (budget && *budget <= 1) words.push_back(cat("budget_fraction=", *budget));
  if (budget && *budget > 1) words.push_back(cat("budget_tokens=", std::llround(*budget)));
  return cache_config_of(words);
}

/// Every method with the budgets and codecs that it has not itself. Seeds are for those that draw:
/// of others they would be the same again.
std::vector<CacheConfig> caches_of(const SweepConfig& config) {
  std::vector<CacheConfig> out;
  for (const auto& method : config.methods) {
    const CacheConfig own = cache_settings_of(words_of(method));
    const RetentionKind* policy = policy_of(own.retention);
    const bool has_codec = own.codec_k != "model" || own.codec_v != "model";
    for (const auto& codec : config.codecs)
      for (const int64_t seed : config.seeds) {
        if (has_codec && codec != config.codecs[0]) continue;
        if (seed != config.seeds[0] && !(policy && policy->draws)) continue;
        if (!policy || has_budget(own)) {
          out.push_back(cache_of(method, codec, {}, seed));
          continue;
        }
        for (const double budget : config.budgets)
          out.push_back(cache_of(method, codec, budget, seed));
      }
  }
  return out;
}

/// What a result depends on, as text.
std::string identity(const SweepConfig& config, const SweepPoint& point) {
  std::string out = cat(point.checkpoint, "\n", point.options.context, "\n");
  const auto add = [&](const Key& key, const auto& value) {
    out += cat(key.name, " = ", to_toml(detail::to_value(value)), "\n");
  };
  CacheConfig::fields(*point.options.cache, add);
  // a point whose gates are not there is refused when its turn comes
  if (const fs::path gates = point.options.cache->duo_gates; fs::is_regular_file(gates))
    out += sha256_of_file(gates) + "\n";
  // the lists of the grid do not shape a single point
  SweepConfig rest = config;
  rest.checkpoints = rest.methods = rest.codecs = {};
  rest.budgets = {};
  rest.contexts = rest.seeds = {};
  SweepConfig::fields(rest, add);
  return out;
}

}  // namespace

SweepConfig sweep_config_of(const fs::path& file) {
  auto config = only_section<SweepConfig>(Settings::from_file(file), "sweep");
  const auto expect = [&](bool good, const std::string& what, const std::string& key,
                          const std::string& remedy = "") {
    if (!good) throw Error(ExitCode::kConfig, {what, file.string() + ": sweep." + key, remedy});
  };
  const auto expect_some = [&](const auto& list, const std::string& key) {
    expect(!list.empty(), "an empty list leaves no points", key, "leave it out for the default");
  };
  expect(!config.checkpoints.empty(), "no checkpoint is given", "checkpoints");
  expect(!config.corpus.empty(), "no corpus is given", "corpus");
  expect_some(config.methods, "methods");
  expect_some(config.budgets, "budgets");
  expect_some(config.codecs, "codecs");
  expect_some(config.contexts, "contexts");
  expect_some(config.seeds, "seeds");
  for (const auto& method : config.methods) cache_config_of(words_of(method));
  for (const int64_t context : config.contexts)
    expect(config.prefill >= 0 || context + config.prefill > 0,
           context == 0 ? std::string("is counted from the end of a context; set contexts")
                        : cat("all but ", -config.prefill, " tokens of a context of ", context),
           "prefill");
  for (const auto& codec : config.codecs) {
    const CacheConfig own = cache_settings_of({codec});
    expect(own.retention == "full" && own.depth_merge == "none", codec + " is no codec", "codecs");
  }
  return config;
}

std::vector<SweepPoint> sweep_points(const SweepConfig& config) {
  const auto caches = caches_of(config);
  std::vector<SweepPoint> points;
  std::set<std::string> known;
  const auto add = [&](const std::string& checkpoint, int64_t context, const CacheConfig& cache) {
    SweepPoint point{.checkpoint = checkpoint, .options = {}, .name = {}, .identity = {}};
    EvaluateOptions& options = point.options;
    options.split = config.split;
    options.context = context;
    options.protocol = protocol_of(config.protocol);
    options.cache = cache;
    options.prefill = config.prefill + (config.prefill < 0 ? context : 0);
    options.chunk = config.chunk;
    options.max_tokens = config.max_tokens;
    options.batch = config.batch;
    options.probes = config.probes;
    options.probe.lengths = config.probe_lengths;
    options.probe.samples = config.probe_samples;
    options.probe.batch = config.batch;
    std::string budget;
    if (cache.budget_tokens > 0) budget = cat("-", cache.budget_tokens);
    if (cache.budget_fraction > 0) budget = cat("-", cache.budget_fraction);
    point.name =
        plain(cat(fs::path(checkpoint).lexically_normal().filename().string(), "-", cache.retention,
                  budget, "-", cache.codec_k, "-", cache.codec_v, "-", context));
    point.identity = identity(config, point);
    if (known.insert(point.identity).second) points.push_back(std::move(point));
  };
  for (const auto& checkpoint : config.checkpoints)
    for (const int64_t context : config.contexts)
      for (const auto& cache : caches) add(checkpoint, context, cache);
  return points;
}

SweepResult run_sweep(const SweepConfig& config, const fs::path& output, const SweepHooks& hooks) {
  fs::create_directories(output);
  const DirectoryLock lock(output);
  sweep_temporaries(output);
  const Corpus corpus = Corpus::open(config.corpus);
  const auto points = sweep_points(config);
  SweepResult result;
  std::optional<LoadedModel> model;
  std::string loaded;
  std::map<std::string, std::string> contents;
  std::map<int64_t, CacheLengths> lengths;  // by context, of the loaded model
  for (size_t i = 0; i < points.size(); ++i) {
    const SweepPoint& point = points[i];
    auto& content = contents[point.checkpoint];
    if (content.empty()) content = hooks.identity(point.checkpoint);
    const auto all =
        cat(point.identity, corpus.fingerprint(), "\n", content, "\n", KVSMITH_VERSION);
    const fs::path file = output / cat(point.name, "-", sha256(all).substr(0, 12), ".json");
    if (fs::exists(file)) {
      ++result.known;
      continue;
    }
    if (loaded != point.checkpoint) {
      model.reset();
      model = hooks.load(point.checkpoint);
      loaded = point.checkpoint;
      lengths.clear();
    }
    try {
      EvaluateOptions options = point.options;
      if (const auto found = lengths.find(options.context); found != lengths.end())
        options.cache_lengths = found->second;
      const auto evaluation = evaluate(*model, corpus, options);
      lengths[point.options.context] = *evaluation.cache_lengths;
      const auto json = to_json(evaluation, *model, config.corpus);
      write_result(file, json);
      ++result.done;
      hooks.note(cat(i + 1, "/", points.size(), " ", model->name, ", ",
                     json["method"]["name"].get<std::string>(), ", context ",
                     json["context"].dump(), ": perplexity ", json["perplexity"].dump(), ", ",
                     human_bytes(json["resident"]["mean_bytes"].get<double>())));
    } catch (const Error& error) {
      if (error.code() != ExitCode::kConfig && error.code() != ExitCode::kUsage) throw;
      ++result.refused;
      hooks.note(cat(i + 1, "/", points.size(), " left out: ", error.what()));
    }
  }
  return result;
}

}  // namespace kvsmith
