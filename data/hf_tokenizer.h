#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "data/tokenizer.h"

namespace kvsmith {

/// The files, name to content, from which `AutoTokenizer.from_pretrained(folder)` of Hugging Face
/// transformers (checked with 4.57 and 5.23) makes a tokenizer with the same ids, begin-of-text in
/// front where it has one, and the same lossless decoding:
///
///   tokenizer.json           what transformers loads: BPE with byte fallback. Its vocabulary has
///                            plain spaces where the SentencePiece model has U+2581, so that text
///                            needs no normaliser and a literal U+2581 falls back to its bytes.
///   tokenizer_config.json    names the class that loads tokenizer.json as it is, has the chat
///                            template, and where there is none keeps "<s>" or "<unk>" in a text
///                            from being taken for the control tokens
///   special_tokens_map.json
///   tokenizer.model          for tools that want SentencePiece (llama.cpp's converter)
///
/// That is for SentencePiece models; see hf_byte_level_files() for the other kind.
///
/// `max_positions` is the longest sequence of the model. Throws Error (65) for a SentencePiece
/// model these files cannot express: not BPE, not lossless, without end-of-text, unused pieces, or
/// user-defined ones beside a space before texts.
std::map<std::string, std::string> hf_tokenizer_files(const Tokenizer& tokenizer,
                                                      int64_t max_positions);

}  // namespace kvsmith
