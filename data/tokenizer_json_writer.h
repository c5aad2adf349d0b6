#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/json_node.h"

namespace kvsmith {

/// A byte-level BPE tokenizer as a GGUF file has it, in its metadata `tokenizer.ggml.*`.
struct TokenizerParts {
  /// Values of `token_type`.
  enum Type : int32_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

  std::vector<std::string> tokens;                ///< by id
  std::vector<std::string> merges;                ///< "a b", the most urgent first
  std::vector<int32_t> token_types;               ///< by id; empty: all normal
  std::string pre;                                ///< see pre_tokenizer_named()
  int32_t bos_id = -1, eos_id = -1, pad_id = -1;  ///< -1: none; control tokens whatever their type
  bool adds_bos = false;                          ///< texts begin with bos_id; `add_bos_token`
  std::string chat_template;                      ///< Jinja; empty: none
};

/// A tokenizer.json that Tokenizer reads and that gives equal ids in Hugging Face `tokenizers` and
/// transformers (see hf_tokenizer_files()). User-defined tokens are looked for in every text,
/// control tokens and unused ones only by encode_with_specials(). `llama3` takes words of the
/// vocabulary without merging, `qwen2` normalises to NFC, as the files of these families do.
///
/// Throws Error naming `where`: 78 for a `pre` that is not supported; 65 for lists that do not
/// belong together, tokens that are not UTF-8 or there twice, and what parse_tokenizer_json()
/// finds.
std::string make_tokenizer_json(const TokenizerParts& parts, const std::string& where);

/// The chat template of a tokenizer_config.json: the one, or the one called "default" of several;
/// empty: none.
std::string chat_template_of(const JsonNode& config);

/// The tokenizer.json with an object "kvsmith" in its decoder that says what its companions do: the
/// names of begin-of-text, end-of-text and padding, and the chat template. Nothing else changes,
/// and nothing at all where the object is there already or both companions are empty. (Hugging Face
/// `tokenizers` refuses unknown members beside "decoder" but not within.)
///
/// `config` is tokenizer_config.json, `jinja` is chat_template.jinja; an empty text: no such file.
/// Throws 65 for malformed JSON, and a begin- or end-of-text that the tokenizer.json has not added.
std::string with_companions(const std::string& json,
                            std::string_view config,
                            const std::string& jinja,
                            const std::string& where);

}  // namespace kvsmith
