#pragma once

#include <cstdint>
#include <string>

#include "checkpoints/load.h"

namespace kvsmith {

/// Throws Error (78) when `other` has not `vocab_size` token ids, or a tokenizer other than
/// `tokenizer_sha256` (empty: unknown), which is that of the corpus. `where` names it in the
/// message.
void expect_same_vocabulary(const LoadedModel& other,
                            int64_t vocab_size,
                            const std::string& tokenizer_sha256,
                            const std::string& where);

}  // namespace kvsmith
