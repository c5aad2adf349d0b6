#include "cache/cache_options.h"

#include <algorithm>
#include <iterator>
#include <sstream>

#include "core/error.h"
#include "core/fields.h"
#include "core/text.h"

namespace kvsmith {
namespace {

constexpr double kUsualShare = 0.5;  // of the context

std::vector<std::string> codec_names() {
  std::vector<std::string> names = {"model", "kivi2", "kivi4"};
  for (const auto& codec : row_codecs()) names.push_back(codec.name);
  return names;
}

bool is_codec(const std::string& word) {
  const auto names = codec_names();
  return std::ranges::find(names, word) != names.end();
}

bool is_policy(const std::string& word) {
  return has_own_count(word) || std::ranges::find(retention_kinds(), word, &RetentionKind::name) !=
                                    retention_kinds().end();
}

/// Lays what one word stands for over `settings`.
void apply(const std::string& word, Settings& settings) {
  if (word.ends_with(".toml")) return settings.merge(Settings::from_file(word));
  if (word.find('=') != word.npos)
    return settings.set(word.starts_with("cache.") ? word : "cache." + word);
  const size_t slash = word.find('/');
  const std::string first = word.substr(0, slash),
                    second = slash == word.npos ? first : word.substr(slash + 1);
  if (word == "minicache") return settings.set("cache.depth_merge=\"minicache\"");
  if (is_policy(word)) {
    settings.set(cat("cache.retention=\"", word, "\""));
    if (word == "streaming") settings.set("cache.positions=\"in_cache\"");
    if (word == "leankv") {
      settings.set("cache.codec_k=\"int8\"");
      settings.set("cache.codec_v=\"int4\"");
    }
    return;
  }
  if (is_codec(first) && is_codec(second)) {
    settings.set(cat("cache.codec_k=\"", first, "\""));
    settings.set(cat("cache.codec_v=\"", second, "\""));
    return;
  }
  auto names = codec_names();
  names.insert(names.end(), {"full", "leankv", "minicache"});
  for (const auto& kind : retention_kinds()) names.push_back(kind.name);
  throw Error(ExitCode::kConfig, {"\"" + word + "\" is no policy, codec, file.toml or key=value",
                                  "--cache", suggestion(word, names)});
}

}  // namespace

std::vector<std::string> words_of(const std::string& method) {
  std::istringstream in(method);
  return {std::istream_iterator<std::string>(in), {}};
}

CacheConfig cache_settings_of(const std::vector<std::string>& words) {
  Settings settings;
  for (const auto& word : words) apply(word, settings);
  return only_section<CacheConfig>(settings, "cache");
}

bool has_budget(const CacheConfig& config) {
  return config.budget_tokens > 0 || config.budget_fraction > 0 || config.budget_bytes > 0;
}

CacheConfig cache_config_of(const std::vector<std::string>& words) {
  auto config = cache_settings_of(words);
  if (!has_own_count(config.retention) && !has_budget(config)) config.budget_fraction = kUsualShare;
  return config;
}

std::string method_name(const CachePlan& plan) {
  const CacheConfig& config = plan.config();
  std::string out = config.retention;
  if (plan.budget() > 0) out += cat(" ", plan.budget());
  if (config.retention == "leankv") out += cat(" ", config.alpha_high, "/", config.alpha_low);
  if (config.allocator != "uniform") out += ", " + config.allocator;
  if (config.evict != "after") out += ", evict " + config.evict;
  if (config.store != "auto") out += ", " + config.store;
  if (config.depth_merge != "none") out += cat(", ", config.depth_merge, " ", config.merge_angle);
  if (config.positions != "original") out += ", " + config.positions;
  if (config.codec_k != "model" || config.codec_v != "model")
    out += cat(", ", config.codec_k, "/", config.codec_v);
  return out;
}

}  // namespace kvsmith
