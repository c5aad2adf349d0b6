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

/// As initialised.
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

/// Token ids of tiny_model(), the same for a `name`.
inline std::vector<int32_t> some_text(int32_t tokens, const char* name) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < tokens; ++i) ids.push_back(static_cast<int32_t>(hash_of(i, name) % 67));
  return ids;
}

/// `source` turned into what `change` makes of its sizes, with moments of `ids`, not refit.
inline Conversion converted(const Decoder& source,
                            const std::function<void(ModelConfig&)>& change,
                            Pooling pooling = Pooling::kFit,
                            const std::vector<int32_t>& ids = some_text(400, "text")) {
  ModelConfig target = sizes_of(source->config());
  change(target);
  const auto problems = fill_in(target);
  if (!problems.empty()) throw std::logic_error(problems[0].key + ": " + problems[0].text);
  Decoder reader = source;
  const auto moments = Moments::of(*reader, ids, 100, moments_needed(*source, target));
  return convert(*source, target, moments, pooling, 1);
}

/// Of 50 fixed tokens: [1, 50, vocab].
inline at::Tensor logits(const Decoder& model) {
  const torch::NoGradGuard no_grad;
  Decoder it = model;
  return it->forward((torch::arange(50) * 7 % 67).unsqueeze(0));
}

/// The parameter itself; throws std::logic_error where there is none of that name.
inline at::Tensor parameter(const Decoder& model, const std::string& name) {
  for (auto& [other, tensor] : named_parameters(*model))
    if (other == name) return tensor;
  throw std::logic_error("no parameter " + name);
}

}  // namespace kvsmith
