#include "models/weights_hash.h"

#include <torch/types.h>

#include "core/hash.h"

namespace kvsmith {

std::string hash_of_weights(const DecoderImpl& model, std::optional<c10::ScalarType> rounded_to) {
  Sha256 hash;
  for (const auto& [name, tensor] : named_parameters(model)) {
    const auto values =
        tensor.detach().cpu().to(rounded_to.value_or(tensor.scalar_type())).contiguous();
    hash.update(name.data(), name.size());
    hash.update(values.const_data_ptr(), values.nbytes());
  }
  return hash.hex();
}

}  // namespace kvsmith
