#include "models/low_rank.h"

#include <algorithm>
#include <cmath>

#include <ATen/CPUGeneratorImpl.h>
#include <torch/types.h>

#include "core/error.h"
#include "core/pattern.h"
#include "core/random.h"
#include "models/modules.h"

namespace kvsmith {
namespace {

constexpr std::string_view kWeight = ".weight";
constexpr const char *kDown = ".lora_A.weight", *kUp = ".lora_B.weight";

std::vector<std::pair<std::string, LinearImpl*>> linear_maps(const DecoderImpl& model) {
  std::vector<std::pair<std::string, LinearImpl*>> out;
  for (const auto& item : model.named_modules(/*name_prefix=*/"", /*include_self=*/false))
    if (auto* map = item.value()->as<LinearImpl>()) out.emplace_back(item.key(), map);
  return out;
}

}  // namespace

std::vector<std::string> add_adapters(DecoderImpl& model, const LoraConfig& config, uint64_t seed) {
  const auto maps = linear_maps(model);
  const auto distance = [](const std::string& target) {
    return [&target](const auto& map) { return distance_to_pattern(target, map.first); };
  };
  for (const auto& target : config.targets) {
    const auto nearest = std::ranges::min_element(maps, {}, distance(target));
    if (distance(target)(*nearest) == 0) continue;
    throw Error(ExitCode::kConfig, {"no linear map fits \"" + target + "\"", "lora.targets",
                                    "the nearest is " + nearest->first});
  }
  std::vector<std::string> adapted;
  for (const auto& [name, map] : maps) {
    const bool is_target = std::ranges::any_of(config.targets, [&](const std::string& target) {
      return distance_to_pattern(target, name) == 0;
    });
    if (!is_target) continue;
    if (config.dropout > 0 && (name.ends_with("kv_b_proj") || name == "lm_head")) {
      throw Error(ExitCode::kConfig,
                  {name + " is not given its input, from which to drop elements", "lora.dropout",
                   "set it to 0, or leave the map out of lora.targets"});
    }
    map->adapt(config.rank, config.scale(), config.dropout);
    adapted.push_back(name);
  }
  const torch::NoGradGuard no_grad;
  for (const auto& [name, value] : adapter_parameters(model)) {
    if (name.ends_with(kUp)) {
      value.zero_();
      continue;
    }
    // kaiming_uniform with a = sqrt(5), as LoRA's authors and PEFT
    const double bound = 1 / std::sqrt(static_cast<double>(value.size(1)));
    auto generator = at::detail::createCPUGenerator(hash_of(seed, "init " + name));
    value.copy_(torch::empty_like(value, torch::kCPU).uniform_(-bound, bound, generator));
  }
  return adapted;
}

std::vector<std::pair<std::string, at::Tensor>> adapter_parameters(const DecoderImpl& model) {
  auto out = named_parameters(model);
  std::erase_if(out, [](const auto& parameter) {
    return !parameter.first.ends_with(kDown) && !parameter.first.ends_with(kUp);
  });
  return out;
}

WithoutAdapters::WithoutAdapters(const DecoderImpl& model) {
  for (auto& [name, up] : adapter_parameters(model)) {
    if (!name.ends_with(kUp)) continue;
    taken_.emplace_back(up, up.variable_data());
    up.set_data(torch::zeros_like(up));
  }
}

WithoutAdapters::~WithoutAdapters() {
  for (auto& [up, values] : taken_) up.set_data(values);
}

AdapterNames adapter_names(const std::string& weight) {
  const std::string map = weight.substr(0, weight.size() - kWeight.size());
  return {map + kDown, map + kUp};
}

}  // namespace kvsmith
