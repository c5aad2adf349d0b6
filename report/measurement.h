#pragma once

#include <map>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

namespace kvsmith {

/// What must be equal for perplexities to be compared, by key of the evaluation; "none" for what it
/// lacks.
using Measurement = std::map<std::string, std::string>;

Measurement measurement_of(const nlohmann::ordered_json& evaluation);
/// "Measured on c.h5 (valid, 16384 tokens), protocol decode, context 512, stride 512."
std::string conditions_of(const Measurement& measurement);

/// A text as it is, anything else as JSON.
std::string as_text(const nlohmann::ordered_json& value);
std::optional<double> optional_number(const nlohmann::ordered_json& object, const char* key);

}  // namespace kvsmith
