#include "train/trainable.h"

#include <algorithm>

#include "core/error.h"
#include "core/pattern.h"
#include "core/text.h"
#include "models/low_rank.h"

namespace kvsmith {
namespace {

[[noreturn]] void refuse(const std::string& pattern,
                         const NamedTensors& parameters,
                         bool has_tied_embeddings) {
  const auto nearest = std::ranges::min_element(parameters, {}, [&](const auto& parameter) {
    return distance_to_pattern(pattern, parameter.first);
  });
  const bool is_tied = has_tied_embeddings && distance_to_pattern(pattern, kOutputMatrix) == 0;
  throw Error(ExitCode::kConfig,
              {"no parameter fits \"" + pattern + "\"", "train.trainable",
               is_tied ? "model.tie_word_embeddings makes model.embed_tokens.weight the output "
                         "matrix too; name that"
                       : "the nearest is " + nearest->first});
}

/// How many passes over a text go back through a parameter.
int64_t passes_with_gradient(const DecoderImpl& model, const std::string& name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (!name.starts_with(kLayers)) return 1;
  const int64_t layer = std::stoll(name.substr(kLayers.size()));
  const bool is_repeated = std::ranges::any_of(model.graph().slices(), [&](const Slice& slice) {
    return slice.is_cyclic && slice.first <= layer && layer < slice.last;
  });
  return is_repeated ? model.config().backward_passes : 1;
}

}  // namespace

NamedTensors choose_trainable(DecoderImpl& model, const std::vector<std::string>& patterns) {
  const NamedTensors parameters = named_parameters(model);
  for (const auto& pattern : patterns) {
    const bool fits_some = std::ranges::any_of(parameters, [&](const auto& parameter) {
      return distance_to_pattern(pattern, parameter.first) == 0;
    });
    if (!fits_some) refuse(pattern, parameters, model.config().tie_word_embeddings);
  }
  NamedTensors chosen;
  for (const auto& [name, parameter] : parameters) {
    const bool learns = patterns.empty() || std::ranges::any_of(patterns, [&](const auto& pattern) {
                          return distance_to_pattern(pattern, name) == 0;
                        });
    parameter.set_requires_grad(learns);
    if (learns) chosen.emplace_back(name, parameter);
  }
  return chosen;
}

std::vector<std::string> trainable_of(const RunConfig& config) {
  if (config.lora.rank == 0) return config.train.trainable;
  const auto [down, up] = adapter_names("*.weight");
  return {down, up};
}

std::string describe_trainable(const DecoderImpl& model) {
  const auto parameters = model.parameters();
  int64_t learning = 0, tensors = 0;
  for (const auto& parameter : parameters) {
    if (!parameter.requires_grad()) continue;
    learning += parameter.numel();
    ++tensors;
  }
  if (tensors == static_cast<int64_t>(parameters.size())) return "";
  return cat(human_count(static_cast<double>(learning)), " of ",
             human_count(static_cast<double>(model.parameter_count())), " parameters learn, ",
             tensors, " of ", parameters.size(), " tensors");
}

double spared_flops_per_token(const DecoderImpl& model) {
  double spared = 0;
  for (const auto& [name, parameter] : named_parameters(model)) {
    // an embedding is looked up, and multiplied only where it is the output matrix too
    const bool is_multiplied = parameter.dim() == 2 && (!name.starts_with("model.embed_tokens") ||
                                                        parameter.is_same(model.head_weight()));
    if (is_multiplied && !parameter.requires_grad())
      spared += static_cast<double>(2 * passes_with_gradient(model, name) * parameter.numel());
  }
  return spared;
}

}  // namespace kvsmith
