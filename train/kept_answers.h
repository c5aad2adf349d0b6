#pragma once

#include "core/error.h"

namespace kvsmith {

/// Throws what is wrong with a file of answers that a run keeps, bad data with the one remedy that
/// there is.
[[noreturn]] void refuse_kept(const Error& error);

}  // namespace kvsmith
