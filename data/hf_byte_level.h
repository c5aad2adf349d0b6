#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "data/tokenizer.h"

namespace kvsmith {

/// The files, name to content, from which `AutoTokenizer.from_pretrained(folder)` makes a
/// byte-level BPE tokenizer with the same ids: tokenizer.json as it is, tokenizer_config.json with
/// the names of the control tokens and the chat template, special_tokens_map.json.
///
/// Without a chat template, what looks like a control token in a text is text, as in encode(). With
/// one it is the control token: transformers renders a chat to text before it encodes it.
std::map<std::string, std::string> hf_byte_level_files(const Tokenizer& tokenizer,
                                                       int64_t max_positions);

}  // namespace kvsmith
