#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {

/// Reading Hugging Face's config.json; `where` names the file. What is not supported or missing is
/// an Error 78.

/// Without the keys that are null, which are as good as missing; but for q_lora_rank, which tells
/// by it that queries are not compressed.
nlohmann::ordered_json without_nulls(const nlohmann::ordered_json& json);

/// Throws Error 65 naming the key where one of those that are no list of layers has a value of
/// another type.
void expect_types(const nlohmann::ordered_json& json, const std::string& where);

/// The key is there and not null.
bool is_set(const nlohmann::ordered_json& json, const char* key);

template <class T>
T required(const nlohmann::ordered_json& json, const char* key, const std::string& where) {
  if (!is_set(json, key)) {
    throw Error(ExitCode::kConfig, {cat("key \"", key, "\" is missing"), where,
                                    "is this the config.json of a decoder-only model?"});
  }
  return json.at(key).get<T>();
}

/// The base of rotary angles that nothing scales, `usual` where it is not said. rope: an object
/// with rope_type and rope_theta.
double unscaled_theta(const nlohmann::ordered_json& rope, double usual, const std::string& where);
/// Complains about rope_scaling, as transformers before 5 has it.
void expect_no_scaling(const nlohmann::ordered_json& json, const std::string& where);

/// `layer_types` in our words, one for each layer.
std::vector<std::string> read_layer_types(const nlohmann::ordered_json& json,
                                          int64_t layers,
                                          const std::string& where);
/// And back.
nlohmann::ordered_json to_layer_types(const std::vector<std::string>& types);

}  // namespace kvsmith
