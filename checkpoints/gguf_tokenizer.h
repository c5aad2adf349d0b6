#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/gguf.h"
#include "data/tokenizer.h"

namespace kvsmith {

/// The tokenizer of a GGUF file as the file it may have been: a SentencePiece model for
/// tokenizer.ggml.model "llama", a tokenizer.json for "gpt2". Empty for other kinds. Throws Error
/// 65 for lists that do not belong together, 78 for a pre-tokenizer that is not supported.
std::string tokenizer_of_gguf(const GgufFile& file);

/// Of begin- and end-of-text; -1: none. Texts need not begin with the former: then it is -1 too.
struct GgufTokenIds {
  int32_t bos = -1, eos = -1;
};
/// Throws Error 65 for one that is not below `vocab_size`.
GgufTokenIds token_ids_of_gguf(const GgufFile& file, int64_t vocab_size);

/// Adds the tokenizer, or that there is none. Token ids that the tokenizer has no pieces for are
/// unused. Throws Error (65) for one that llama.cpp would not understand alike.
void add_tokenizer(GgufMetadata& metadata,
                   const std::optional<Tokenizer>& tokenizer,
                   int64_t vocab_size,
                   int32_t bos_id,
                   int32_t eos_id);

}  // namespace kvsmith
