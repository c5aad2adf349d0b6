#pragma once

#include <cstddef>
#include <string_view>

namespace kvsmith {

/// How many characters must be changed, added or removed for `name` to fit `pattern`, in which `*`
/// stands for any text and `?` for any one character; 0: it fits.
size_t distance_to_pattern(std::string_view pattern, std::string_view name);

}  // namespace kvsmith
