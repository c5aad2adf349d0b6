#include "report/measurement.h"

#include <filesystem>

#include "core/text.h"

namespace kvsmith {

using Json = nlohmann::ordered_json;

Measurement measurement_of(const Json& evaluation) {
  Measurement out;
  for (const char* key :
       {"corpus", "split", "tokens", "context", "stride", "protocol", "prefill", "chunk"}) {
    const Json value = evaluation.value(key, Json());
    out[key] = value.is_null() ? "none" : as_text(value);
  }
  // One corpus may be named from several places; another text gives another number of tokens.
  out["corpus"] = std::filesystem::path(out["corpus"]).filename().string();
  return out;
}

std::string conditions_of(const Measurement& measurement) {
  const auto& m = measurement;
  std::string out = cat("Measured on ", m.at("corpus"), " (", m.at("split"), ", ", m.at("tokens"),
                        " tokens), protocol ", m.at("protocol"), ", context ", m.at("context"),
                        ", stride ", m.at("stride"));
  for (const char* key : {"prefill", "chunk"})
    if (m.at(key) != "none") out += cat(", ", key, " ", m.at(key));
  return out + ".";
}

std::string as_text(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::optional<double> optional_number(const Json& object, const char* key) {
  const Json value = object.value(key, Json());
  return value.is_number() ? std::optional(value.get<double>()) : std::nullopt;
}

}  // namespace kvsmith
