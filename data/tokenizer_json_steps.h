#pragma once

#include <string>

#include "core/json_node.h"
#include "data/tokenizer_json.h"

namespace kvsmith {

// The parts of a tokenizer.json around its model; for parse_tokenizer_json(). Each takes the whole
// document and throws as that does.

void read_normalizer(const JsonNode& root, TokenizerJson& out);
void read_pre_tokenizer(const JsonNode& root, TokenizerJson& out);
/// Needs the pieces. Takes begin-of-text from TemplateProcessing.
void read_post_processor(const JsonNode& root, TokenizerJson& out);
/// Needs the pieces and the post-processor. Takes control tokens and chat template from "kvsmith",
/// or guesses the tokens by their names.
void read_decoder(const JsonNode& root, TokenizerJson& out);

}  // namespace kvsmith
