#pragma once

#include <string>
#include <vector>

#include "cache/cache_plan.h"
#include "configs/cache_config.h"

namespace kvsmith {

/// The words of a method that is given as one text.
std::vector<std::string> words_of(const std::string& method);

/// A cache configuration from words, of which later ones win:
///   h2o, keyformer ...   a policy, with half the context as its budget where none is given;
///                        "streaming" has in-cache positions, as published
///   q8_0, kivi2 ...      a codec for keys and values; q8_0/q4_0: one for each
///   file.toml            the section [cache] of a file
///   key=value            one key
/// Throws Error: 66, 78 with the nearest name.
CacheConfig cache_config_of(const std::vector<std::string>& words);
/// The same, without a budget where none is given.
CacheConfig cache_settings_of(const std::vector<std::string>& words);
bool has_budget(const CacheConfig& config);

/// "keyformer 512, q8_0/q4_0": what differs from keeping all as computed; else "full".
std::string method_name(const CachePlan& plan);

}  // namespace kvsmith
