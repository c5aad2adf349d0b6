#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace kvsmith {

/// The string that the JSON object in `line` has under `field` at its top level. The rest of the
/// object is parsed but not kept. Throws Error (65), naming `where`, for a line that is not one
/// JSON object, lacks the field, has it twice or as something else than a string.
std::string json_string_field(std::string_view line,
                              const std::string& field,
                              const std::string& where);

/// Where a line is not what was asked for: how one with such keys is built into a corpus, as a
/// remedy; `otherwise` where its keys do not tell. `has`: whether the line has a key.
std::string way_of_building(const std::function<bool(const std::string&)>& has,
                            std::string otherwise);

}  // namespace kvsmith
