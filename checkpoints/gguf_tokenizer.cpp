#include "checkpoints/gguf_tokenizer.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/text.h"
#include "data/sentencepiece_writer.h"
#include "data/tokenizer_json.h"
#include "data/tokenizer_json_writer.h"

namespace kvsmith {
namespace {

using Type = SentencePieceModel::Type;

// Keys of docs/gguf.md in github.com/ggml-org/ggml; types of tokens have SentencePiece's numbers.
constexpr const char* kModel = "tokenizer.ggml.model";
constexpr const char* kTokens = "tokenizer.ggml.tokens";
constexpr const char* kScores = "tokenizer.ggml.scores";
constexpr const char* kTypes = "tokenizer.ggml.token_type";
constexpr const char* kBos = "tokenizer.ggml.bos_token_id";
constexpr const char* kEos = "tokenizer.ggml.eos_token_id";
constexpr const char* kUnknown = "tokenizer.ggml.unknown_token_id";
constexpr const char* kAddPrefix = "tokenizer.ggml.add_space_prefix";
constexpr const char* kAddBos = "tokenizer.ggml.add_bos_token";
constexpr const char* kAddEos = "tokenizer.ggml.add_eos_token";
constexpr const char* kPadding = "tokenizer.ggml.padding_token_id";
constexpr const char* kMerges = "tokenizer.ggml.merges";
constexpr const char* kPre = "tokenizer.ggml.pre";
constexpr const char* kChatTemplate = "tokenizer.chat_template";

/// What converters call token ids that the tokenizer does not have.
std::string padding_token(int64_t id) { return cat("[PAD", id, "]"); }

bool is_padding_token(std::string_view token, int64_t type, int64_t id) {
  return type == static_cast<int64_t>(Type::kUnused) && token == padding_token(id);
}

int32_t token_id(const GgufFile& file, const char* key, int64_t vocab_size) {
  if (!file.has(key)) return -1;
  const int64_t id = file.integer(key);
  if (id < 0 || id >= vocab_size) {
    throw Error(ExitCode::kBadData,
                {cat("metadata ", in_quotes(key), " is ", id), file.path().string(),
                 cat("expected a token id below ", vocab_size)});
  }
  return static_cast<int32_t>(id);
}

/// Whether texts begin with begin-of-text; without the key as llama.cpp has it.
bool adds_bos(const GgufFile& file) {
  if (file.has(kAddBos)) return file.flag(kAddBos);
  if (!file.has(kModel) || file.text(kModel) != "gpt2") return true;
  return file.has(kPre) && pre_tokenizer_named(file.text(kPre)) == PreTokenizer::kLlama3;
}

SentencePieceModel sentencepiece_of(const GgufFile& file) {
  const auto tokens = file.texts(kTokens);
  const auto scores = file.numbers(kScores);
  const auto types = file.integers(kTypes);
  if (scores.size() != tokens.size() || types.size() != tokens.size()) {
    throw Error(ExitCode::kBadData, {cat("has ", tokens.size(), " tokens, ", scores.size(),
                                         " scores and ", types.size(), " token types"),
                                     file.path().string(), "expected equally many"});
  }
  SentencePieceModel model;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (types[i] < 1 || types[i] > 6) {
      throw Error(ExitCode::kBadData, {cat("token ", i, " has the type ", types[i]),
                                       file.path().string(), "expected 1 to 6"});
    }
    model.pieces.push_back({std::string(tokens[i]), scores[i], static_cast<Type>(types[i])});
  }
  const auto ends_in_padding = [&] {
    const auto& last = model.pieces.back();
    return is_padding_token(last.text, static_cast<int64_t>(last.type),
                            std::ssize(model.pieces) - 1);
  };
  while (!model.pieces.empty() && ends_in_padding()) model.pieces.pop_back();
  const auto count = std::ssize(model.pieces);
  // llama.cpp merges by score and changes no text but its spaces
  model.algorithm = SentencePieceModel::Algorithm::kBpe;
  model.normalizer = "identity";
  model.remove_extra_whitespaces = false;
  model.add_dummy_prefix = !file.has(kAddPrefix) || file.flag(kAddPrefix);
  model.byte_fallback =
      std::ranges::count(model.pieces, Type::kByte, &SentencePieceModel::Piece::type) > 0;
  const auto unknown =
      std::ranges::find(model.pieces, Type::kUnknown, &SentencePieceModel::Piece::type);
  model.unk_id =
      unknown == model.pieces.end() ? -1 : static_cast<int32_t>(unknown - model.pieces.begin());
  model.bos_id = adds_bos(file) ? token_id(file, kBos, count) : -1;
  model.eos_id = token_id(file, kEos, count);
  if (file.has(kChatTemplate)) model.chat_template = file.text(kChatTemplate);
  return model;
}

std::vector<std::string> strings(const std::vector<std::string_view>& views) {
  return {views.begin(), views.end()};
}

TokenizerParts byte_level_of(const GgufFile& file) {
  TokenizerParts parts;
  parts.tokens = strings(file.texts(kTokens));
  parts.merges = strings(file.texts(kMerges));
  if (file.has(kTypes)) {
    for (const int64_t type : file.integers(kTypes))
      parts.token_types.push_back(static_cast<int32_t>(std::clamp<int64_t>(type, 0, 7)));
  }
  const auto size = [&] { return std::ssize(parts.tokens); };
  while (size() > 0 && std::ssize(parts.token_types) == size() &&
         is_padding_token(parts.tokens.back(), parts.token_types.back(), size() - 1)) {
    parts.tokens.pop_back();
    parts.token_types.pop_back();
  }
  parts.pre = file.has(kPre) ? file.text(kPre) : "default";
  parts.bos_id = token_id(file, kBos, size());
  parts.eos_id = token_id(file, kEos, size());
  parts.pad_id = token_id(file, kPadding, size());
  // named, an ordinary token would be one of control
  if (parts.pad_id >= 0 && std::ssize(parts.token_types) == size() &&
      parts.token_types[parts.pad_id] == TokenizerParts::kNormal)
    parts.pad_id = -1;
  parts.adds_bos = adds_bos(file) && parts.bos_id >= 0;
  if (file.has(kChatTemplate)) parts.chat_template = file.text(kChatTemplate);
  return parts;
}

/// As llama.cpp names it.
const char* name_of(PreTokenizer kind) {
  switch (kind) {
    case PreTokenizer::kGpt2:
      return "gpt-2";
    case PreTokenizer::kSmollm:
      return "smollm";
    case PreTokenizer::kLlama3:
      return "llama-bpe";
    case PreTokenizer::kQwen2:
      return "qwen2";
  }
  return "";
}

void add_byte_level(GgufMetadata& metadata, const TokenizerJson& json, int64_t vocab_size) {
  // llama.cpp knows these by the name of the pre-tokenizer
  if (json.normalizes != (json.pre_tokenizer == PreTokenizer::kQwen2) ||
      json.takes_whole_words != (json.pre_tokenizer == PreTokenizer::kLlama3)) {
    throw Error(ExitCode::kBadData,
                {cat("the tokenizer has the pre-tokenizer ", name_of(json.pre_tokenizer), ", ",
                     json.normalizes ? "and" : "but not", " the normaliser NFC, ",
                     json.takes_whole_words ? "and" : "but not", " ignore_merges"),
                 "GGUF export", "llama.cpp would find other tokens; export with --format hf"});
  }
  std::vector<std::string> tokens = json.pieces, merges;
  std::vector<int32_t> types(tokens.size(), TokenizerParts::kNormal);
  for (const auto& added : json.added)
    types[added.id] = added.is_special ? TokenizerParts::kControl : TokenizerParts::kUserDefined;
  for (int64_t id = std::ssize(tokens); id < vocab_size; ++id) {
    tokens.push_back(padding_token(id));
    types.push_back(TokenizerParts::kUnused);
  }
  for (const auto& merge : json.merges)
    merges.push_back(cat(json.pieces[merge.left], " ", json.pieces[merge.right]));
  metadata.add_text(kModel, "gpt2");
  metadata.add_text(kPre, name_of(json.pre_tokenizer));
  metadata.add_texts(kTokens, tokens);
  metadata.add_int32s(kTypes, types);
  metadata.add_texts(kMerges, merges);
  if (json.pad_id >= 0) metadata.add_uint32(kPadding, static_cast<uint32_t>(json.pad_id));
  if (!json.chat_template.empty()) metadata.add_text(kChatTemplate, json.chat_template);
}

void add_sentencepiece(GgufMetadata& metadata,
                       const SentencePieceModel& model,
                       int64_t vocab_size) {
  if (model.algorithm != SentencePieceModel::Algorithm::kBpe || !model.lossless()) {
    throw Error(ExitCode::kBadData,
                {"the tokenizer is not BPE with byte fallback that leaves text as it is",
                 "GGUF export", "export with one such as `tokenizer train` makes"});
  }
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<int32_t> types;
  for (const auto& piece : model.pieces) {
    tokens.push_back(piece.text);
    scores.push_back(piece.score);
    types.push_back(static_cast<int32_t>(piece.type));
  }
  constexpr float kNever = -10000;
  for (int64_t id = std::ssize(tokens); id < vocab_size; ++id) {
    tokens.push_back(padding_token(id));
    scores.push_back(kNever);
    types.push_back(static_cast<int32_t>(Type::kUnused));
  }
  metadata.add_text(kModel, "llama");
  metadata.add_text(kPre, "default");
  metadata.add_texts(kTokens, tokens);
  metadata.add_float32s(kScores, scores);
  metadata.add_int32s(kTypes, types);
  metadata.add_uint32(kUnknown, static_cast<uint32_t>(model.unk_id));
  metadata.add_flag(kAddPrefix, model.add_dummy_prefix);
  if (!model.chat_template.empty()) metadata.add_text(kChatTemplate, model.chat_template);
}

}  // namespace

std::string tokenizer_of_gguf(const GgufFile& file) {
  if (!file.has(kModel)) return "";
  if (file.text(kModel) == "llama") return sentencepiece_model_bytes(sentencepiece_of(file));
  if (file.text(kModel) == "gpt2")
    return make_tokenizer_json(byte_level_of(file), file.path().string());
  return "";
}

GgufTokenIds token_ids_of_gguf(const GgufFile& file, int64_t vocab_size) {
  const int32_t bos = token_id(file, kBos, vocab_size);
  return {adds_bos(file) ? bos : -1, token_id(file, kEos, vocab_size)};
}

void add_tokenizer(GgufMetadata& metadata,
                   const std::optional<Tokenizer>& tokenizer,
                   int64_t vocab_size,
                   int32_t bos_id,
                   int32_t eos_id) {
  bool begins_with_bos = bos_id >= 0;
  if (!tokenizer) {
    metadata.add_text(kModel, "none");
  } else if (const auto* const model = tokenizer->sentencepiece()) {
    add_sentencepiece(metadata, *model, vocab_size);
  } else {
    const TokenizerJson json = parse_tokenizer_json(tokenizer->bytes(), "GGUF export");
    add_byte_level(metadata, json, vocab_size);
    // said even where texts do not begin with it
    begins_with_bos = json.adds_bos;
    bos_id = json.bos_id;
  }
  if (bos_id >= 0) metadata.add_uint32(kBos, static_cast<uint32_t>(bos_id));
  if (eos_id >= 0) metadata.add_uint32(kEos, static_cast<uint32_t>(eos_id));
  metadata.add_flag(kAddBos, begins_with_bos);
  metadata.add_flag(kAddEos, false);
}

}  // namespace kvsmith
