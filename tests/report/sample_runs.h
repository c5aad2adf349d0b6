#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

namespace kvsmith {

/// What `kvsmith evaluate --json` writes about a run of that name, architecture and outcome.
inline nlohmann::ordered_json evaluation(const std::string& name,
                                         const std::string& architecture,
                                         double bytes_per_token,
                                         double perplexity) {
  return {{"name", name},
          {"corpus", "data/stories.h5"},
          {"split", "validation"},
          {"architecture", architecture},
          {"parameters", 12'600'000},
          {"tokens_seen", 20'000'000},
          {"tokens", 51'234},
          {"perplexity", perplexity},
          {"bits_per_byte", nullptr},
          {"context", 1024},
          {"stride", 512},
          {"protocol", "decode"},
          {"cache",
           {{"bytes_measured", 1024 * bytes_per_token},
            {"bytes_formula", 1024 * bytes_per_token},
            {"bytes_per_token", bytes_per_token},
            {"bytes_at_8k", 8192 * bytes_per_token}}}};
}

/// The same with a cache method: "h2o", "q8_0" and so on, keys and values stored alike.
inline nlohmann::ordered_json method_evaluation(const std::string& name,
                                                const std::string& retention,
                                                const std::string& codec,
                                                double mean_bytes,
                                                double perplexity,
                                                int64_t context = 512) {
  const bool evicts = retention != "full";
  auto json = evaluation(name, "GQA 8/2", 1024, perplexity);
  json["checkpoint"] = "runs/" + name;
  json["context"] = json["stride"] = context;
  json["documents"] = 2;
  json["cache"]["tokens"] = context;
  json["cache"]["dtype"] = "fp32";
  json["method"] = {{"name", retention + (evicts ? " 64" : "") +
                                 (codec == "model" ? "" : ", " + codec + "/" + codec)},
                    {"retention", retention},
                    {"budget_tokens", evicts ? 64 : 0},
                    {"protect_sinks", 4},
                    {"codec_k", codec},
                    {"codec_v", codec},
                    {"seed", 0}};
  json["resident"] = {{"mean_bytes", mean_bytes},
                      {"max_bytes", 2 * mean_bytes},
                      {"peak_bytes", 3 * mean_bytes},
                      {"payload", mean_bytes},
                      {"codec_metadata", 48},
                      {"index", 40},
                      {"policy_state", 56},
                      {"reserved", 2 * mean_bytes},
                      {"read_bytes_per_token", mean_bytes}};
  json["perplexity_full"] = 20.5;
  json["kl_to_full"] = evicts ? 0.125 : -1e-9;
  json["top1_agreement"] = 0.875;
  json["perplexity_interval"] = {perplexity - 0.5, perplexity + 0.75};
  json["nll_by_position"] = {{{"from", 1}, {"to", 2}, {"nll", 7.5}}};
  return json;
}

}  // namespace kvsmith
