#pragma once

#include <string>
#include <string_view>

#include "data/sentencepiece_model.h"

namespace kvsmith {

/// A SentencePiece model file that says what `model` does, without a normaliser's table of
/// characters: parse_sentencepiece_model() gives `model` back, and the library encodes as its
/// pieces and scores have it.
std::string sentencepiece_model_bytes(const SentencePieceModel& model);

/// The model file `bytes` with what Hugging Face keeps in files beside it, so that one file tells
/// all: tokens that were added after the last piece (`added_tokens`, the content of
/// added_tokens.json, and added_tokens_decoder in that of tokenizer_config.json, `config`), control
/// tokens but those with "special": false; no begin-of-text where add_bos_token is false; the chat
/// template, which is that of `jinja` where there is one. Empty contents: no such file. Throws
/// Error 65 where they are damaged, 78 where added ids do not follow the last piece without a gap.
std::string with_companions_of_sentencepiece(const std::string& bytes,
                                             std::string_view added_tokens,
                                             std::string_view config,
                                             const std::string& jinja,
                                             const std::string& where);

}  // namespace kvsmith
