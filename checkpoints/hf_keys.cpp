#include "checkpoints/hf_keys.h"

namespace kvsmith {

using Json = nlohmann::ordered_json;

bool is_set(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && !found->is_null();
}

double unscaled_theta(const Json& rope, double usual, const std::string& where) {
  const std::string type = rope.value("rope_type", "default");
  if (type != "default") {
    throw Error(ExitCode::kConfig, {"rope_type \"" + type + "\" is not supported", where,
                                    "only unscaled rotary embeddings are"});
  }
  return rope.value("rope_theta", usual);
}

void expect_no_scaling(const Json& json, const std::string& where) {
  if (!is_set(json, "rope_scaling")) return;
  throw Error(ExitCode::kConfig,
              {"rope_scaling is not supported", where, "only unscaled rotary embeddings are"});
}

std::vector<std::string> read_layer_types(const Json& json,
                                          int64_t layers,
                                          const std::string& where) {
  std::vector<std::string> out;
  for (const auto& item : json.at("layer_types")) {
    const auto type = item.get<std::string>();
    if (type != "full_attention" && type != "sliding_attention") {
      throw Error(ExitCode::kConfig, {"layer type \"" + type + "\" is not supported", where,
                                      "supported: full_attention, sliding_attention"});
    }
    out.emplace_back(type == "full_attention" ? "full" : "sliding");
  }
  if (std::ssize(out) != layers) {
    throw Error(ExitCode::kConfig,
                {cat("layer_types has ", out.size(), " entries for ", layers, " layers"), where,
                 "expected one for each"});
  }
  return out;
}

Json to_layer_types(const std::vector<std::string>& types) {
  Json out = Json::array();
  for (const auto& type : types) out.push_back(type + "_attention");
  return out;
}

}  // namespace kvsmith
