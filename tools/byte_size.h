#pragma once

#include <cstdint>
#include <string>

namespace kvsmith {

/// "24GiB", "80gb"; the unit must be there, lest a bare 24 pass for bytes. Throws Error (64) that
/// names `flag`.
int64_t parse_bytes(const std::string& text, const std::string& flag = "--memory");

}  // namespace kvsmith
