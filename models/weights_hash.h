#pragma once

#include <optional>
#include <string>

#include <c10/core/ScalarType.h>

#include "models/decoder.h"

namespace kvsmith {

/// SHA-256 over names and values of all parameters in registration order: which weights something
/// was made with. `rounded_to`: of the values in this type, so that weights which were loaded in
/// another type are still the same.
std::string hash_of_weights(const DecoderImpl& model,
                            std::optional<c10::ScalarType> rounded_to = {});

}  // namespace kvsmith
