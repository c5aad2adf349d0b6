#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "configs/data_config.h"
#include "configs/distill_config.h"
#include "configs/lora_config.h"
#include "configs/model_config.h"
#include "configs/preference_config.h"
#include "configs/train_config.h"

namespace kvsmith {

/// A whole run: what `train` reads and every checkpoint stores.
struct RunConfig {
  ModelConfig model;
  DataConfig data;
  TrainConfig train;
  DistillConfig distill;
  LoraConfig lora;
  PreferenceConfig preference;

  bool operator==(const RunConfig&) const = default;
};

/// Reads TOML files, later ones winning, then `--set` assignments, over the values of `base`; fills
/// in defaults and checks that the values fit together. Throws Error (78; 64 for a bad assignment)
/// that lists every problem with file:line:column and the nearest valid key. Relative corpus paths
/// are relative to the working directory.
RunConfig load_run_config(const std::vector<std::filesystem::path>& files,
                          const std::vector<std::string>& assignments = {},
                          const RunConfig& base = {});

/// The same from text; `source` names it in errors.
RunConfig parse_run_config(const std::string& toml, const std::string& source);

/// What is allowed and probably not meant, one sentence each.
std::vector<std::string> advice(const RunConfig& config);

/// A configuration around a model that comes without one: the default run, on texts as long as the
/// model takes.
RunConfig run_config_of(const ModelConfig& model);

/// The resolved configuration as TOML; parse_run_config gives it back unchanged.
std::string to_toml(const RunConfig& config);

/// Keys whose values differ, as "train.seed: 1 -> 2"; only those that shape the result unless
/// `all` is set.
struct Difference {
  std::string key, before, after;
};
std::vector<Difference> differences(const RunConfig& before,
                                    const RunConfig& after,
                                    bool all = false);

/// Every key with default, expectation and help, in order; for `--help` and docs.
std::vector<KeyValue> all_keys(const RunConfig& config = {});
/// docs/configuration.md, the part that is generated.
std::string configuration_reference();

}  // namespace kvsmith
