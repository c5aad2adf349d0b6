#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include <torch/types.h>

#include "convert/convert.h"
#include "core/random.h"
#include "tests/support/tiny.h"

namespace kvsmith {

inline Decoder random_model(const ModelConfig& config, uint64_t seed = 1) {
  Decoder model(config);
  initialize(*model, seed);
  return model;
}

/// Sets the weights of a projection to zero in every layer.
inline void clear(const Decoder& model, const std::string& projection) {
  const torch::NoGradGuard no_grad;
  for (auto& [name, tensor] : named_parameters(*model))
    if (name.find(projection) != name.npos) tensor.zero_();
}

/// `source` turned into what `change` makes of its sizes.
inline Conversion converted(const Decoder& source,
                            const std::function<void(ModelConfig&)>& change,
                            Pooling pooling = Pooling::kFit) {
  ModelConfig target = sizes_of(source->config());
  change(target);
  const auto problems = fill_in(target);
  if (!problems.empty()) throw std::logic_error(problems[0].key + ": " + problems[0].text);
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 400; ++i) ids.push_back(static_cast<int32_t>(hash_of(i, "text") % 67));
  Decoder reader = source;
  const auto moments = Moments::of(*reader, ids, 100, moments_needed(*source, target));
  return convert(*source, target, moments, pooling, 1);
}

inline at::Tensor logits(const Decoder& model) {
  const torch::NoGradGuard no_grad;
  Decoder it = model;
  return it->forward((torch::arange(50) * 7 % 67).unsqueeze(0));
}

inline at::Tensor parameter(const Decoder& model, const std::string& name) {
  for (auto& [other, tensor] : named_parameters(*model))
    if (other == name) return tensor;
  throw std::logic_error("no parameter " + name);
}

}  // namespace kvsmith
