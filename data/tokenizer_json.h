#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/byte_bpe.h"
#include "data/pre_tokenizer.h"

namespace kvsmith {

/// What a tokenizer.json of a byte-level BPE tokenizer says.
struct TokenizerJson {
  struct Added {
    std::string content;
    int32_t id = -1;
    bool is_special = false;
    bool is_normalized = false;  ///< looked for after normalisation, not before
  };

  std::vector<std::string> pieces;  ///< by id; as stored, "Ġthe", added tokens as they are
  std::vector<ByteBpe::Merge> merges;
  std::vector<Added> added;
  PreTokenizer pre_tokenizer = PreTokenizer::kGpt2;
  bool normalizes = false;         ///< to NFC
  bool takes_whole_words = false;  ///< "ignore_merges": words of the vocabulary are not merged
  int32_t unk_id = -1;             ///< what bytes without a token become; -1: nothing

  int32_t bos_id = -1, eos_id = -1, pad_id = -1;  ///< -1: none
  bool adds_bos = false;      ///< texts begin with bos_id, as the post-processor has it
  std::string chat_template;  ///< Jinja; empty: none
};

/// Whether this is JSON rather than a SentencePiece model: "{" and a quotation mark or "}", white
/// space aside. (A SentencePiece model begins with a line feed too, and may go on with "{".)
bool is_tokenizer_json(std::string_view bytes);

/// Reads what Hugging Face `tokenizers` writes for the families of GPT-2, SmolLM2, Llama 3 and
/// Qwen2: model BPE on bytes; pre-tokenizers ByteLevel, Digits and ByteLevel, Split and ByteLevel
/// with a known expression; normaliser NFC or none; post-processors ByteLevel and
/// TemplateProcessing.
///
/// The ids of end-of-text and so on, and the chat template, come from the object "kvsmith" in
/// "decoder" (see docs/formats.md), else from TemplateProcessing and well-known names.
///
/// Throws Error naming the file and the JSON path: 65 for malformed JSON, missing members, ids
/// that are no exact 0 to n - 1, merges of unknown tokens, more than 2^20 tokens, tokens longer
/// than 4,096 bytes, nesting deeper than 16; 78 for valid files with anything else in them.
TokenizerJson parse_tokenizer_json(std::string_view bytes, const std::string& where);

}  // namespace kvsmith
