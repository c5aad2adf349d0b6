#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "configs/lora_config.h"
#include "models/decoder.h"

namespace kvsmith {

/// Gives every linear map that fits one of `config.targets` an adapter with no effect: `down` is
/// uniform within 1 / sqrt(in), keyed by (seed, name), and `up` is 0. Returns the names of these
/// maps. Throws Error (78) for a target that fits none, with the nearest name.
std::vector<std::string> add_adapters(DecoderImpl& model, const LoraConfig& config, uint64_t seed);

/// Parameters of adapters, named as PEFT does but for its prefix: NAME.lora_A.weight and
/// NAME.lora_B.weight.
std::vector<std::pair<std::string, at::Tensor>> adapter_parameters(const DecoderImpl& model);

/// Names of the two parameters that adapt the weight `name`, "...q_proj.weight".
struct AdapterNames {
  std::string down, up;
};
AdapterNames adapter_names(const std::string& weight);

/// While it lives, the adapters of a model add nothing.
class WithoutAdapters {
 public:
  explicit WithoutAdapters(const DecoderImpl& model);
  ~WithoutAdapters();
  WithoutAdapters(const WithoutAdapters&) = delete;
  WithoutAdapters& operator=(const WithoutAdapters&) = delete;

 private:
  std::vector<std::pair<at::Tensor, at::Tensor>> taken_;  ///< parameters and what they held
};

}  // namespace kvsmith
