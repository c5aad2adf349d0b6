#include "data/sentencepiece_writer.h"

#include <bit>
#include <charconv>
#include <cstdint>
#include <map>
#include <string_view>

#include "core/error.h"
#include "core/json_node.h"
#include "core/text.h"
#include "data/tokenizer_json_writer.h"

namespace kvsmith {
namespace {

/// A protobuf message in the making.
class Message {
 public:
  void add_number(uint32_t field, uint64_t value) {
    add_varint(field << 3);
    add_varint(value);
  }
  void add_float(uint32_t field, float value) {
    add_varint(field << 3 | 5);
    auto bits = std::bit_cast<uint32_t>(value);
    for (int i = 0; i < 4; ++i, bits >>= 8) bytes_ += static_cast<char>(bits & 0xFF);
  }
  void add_bytes(uint32_t field, std::string_view value) {
    add_varint(field << 3 | 2);
    add_varint(value.size());
    bytes_ += value;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void add_varint(uint64_t value) {
    for (; value > 0x7F; value >>= 7) bytes_ += static_cast<char>((value & 0x7F) | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

std::string message_of(const SentencePieceModel::Piece& piece) {
  Message message;
  message.add_bytes(1, piece.text);
  message.add_float(2, piece.score);
  if (piece.type != SentencePieceModel::Type::kNormal)
    message.add_number(3, static_cast<uint64_t>(piece.type));
  return message.bytes();
}

/// An id of -1 takes ten bytes, as protobuf has it.
uint64_t number_of(int32_t id) { return static_cast<uint64_t>(int64_t{id}); }

/// Tokens from id `count` on, by id.
std::map<int64_t, SentencePieceModel::Piece> tokens_after(int64_t count,
                                                          const JsonNode& added_tokens,
                                                          const JsonNode& config) {
  using Type = SentencePieceModel::Type;
  constexpr int64_t kMost = int64_t{1} << 20;
  std::map<int64_t, SentencePieceModel::Piece> out;
  for (const auto& [content, id] : added_tokens.object().items())
    if (const int64_t at = added_tokens.at(content).integer(0, kMost); at >= count)
      out[at] = {content, 0, Type::kControl};
  if (const auto decoder = config.find("added_tokens_decoder")) {
    for (const auto& [id, token] : decoder->object().items()) {
      const auto entry = decoder->at(id);
      int64_t at = -1;
      const auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), at);
      if (error != std::errc() || end != id.data() + id.size()) entry.damaged("a token id as key");
      if (at < count) continue;
      const auto special = entry.find("special");
      out[at] = {entry.at("content").text(), 0,
                 special && !special->boolean() ? Type::kUserDefined : Type::kControl};
    }
  }
  return out;
}

}  // namespace

// Field numbers are those of sentencepiece_model.proto, as in sentencepiece_model.cpp.
std::string sentencepiece_model_bytes(const SentencePieceModel& model) {
  Message out;
  for (const auto& piece : model.pieces) {
    out.add_bytes(1, message_of(piece));
  }
  Message trainer;
  trainer.add_number(3, static_cast<uint64_t>(model.algorithm));
  trainer.add_number(4, model.pieces.size());
  trainer.add_number(24, model.treat_whitespace_as_suffix ? 1 : 0);
  trainer.add_number(35, model.byte_fallback ? 1 : 0);
  trainer.add_number(40, number_of(model.unk_id));
  trainer.add_number(41, number_of(model.bos_id));
  trainer.add_number(42, number_of(model.eos_id));
  trainer.add_bytes(44, model.unk_surface);
  for (const auto& piece : model.pieces) {
    using Type = SentencePieceModel::Type;
    if (piece.type == Type::kUnknown) trainer.add_bytes(45, piece.text);
  }
  if (model.bos_id >= 0) trainer.add_bytes(46, model.pieces[model.bos_id].text);
  if (model.eos_id >= 0) trainer.add_bytes(47, model.pieces[model.eos_id].text);
  out.add_bytes(2, trainer.bytes());
  Message normalizer;
  normalizer.add_bytes(1, model.normalizer);
  normalizer.add_number(3, model.add_dummy_prefix ? 1 : 0);
  normalizer.add_number(4, model.remove_extra_whitespaces ? 1 : 0);
  normalizer.add_number(5, model.escape_whitespaces ? 1 : 0);
  out.add_bytes(3, normalizer.bytes());
  if (!model.chat_template.empty()) out.add_bytes(kChatTemplateField, model.chat_template);
  return out.bytes();
}

std::string with_companions_of_sentencepiece(const std::string& bytes,
                                             std::string_view added_tokens,
                                             std::string_view config,
                                             const std::string& jinja,
                                             const std::string& where) {
  if (added_tokens.empty() && config.empty() && jinja.empty()) return bytes;
  constexpr int kMostLevels = 16;
  const auto parsed = [&](std::string_view text) {
    return parse_json(text.empty() ? "{}" : text, kMostLevels, where);
  };
  const auto added_json = parsed(added_tokens), config_json = parsed(config);
  const JsonNode added(added_json, "added_tokens.json beside " + where),
      beside(config_json, "tokenizer_config.json beside " + where);
  const SentencePieceModel model = parse_sentencepiece_model(bytes, where);
  Message more;  // a message given twice is merged: lists grow, and the last number holds
  int64_t next = std::ssize(model.pieces);
  for (const auto& [id, piece] : tokens_after(next, added, beside)) {
    if (id != next++) {
      throw Error(ExitCode::kConfig,
                  {.what = cat("the token ", in_quotes(piece.text), " is added as ", id, ", and ",
                               next - 1, " is none"),
                   .where = where,
                   .remedy = "only tokens that follow the last without a gap are supported"});
    }
    more.add_bytes(1, message_of(piece));
  }
  const auto adds_bos = beside.find("add_bos_token");
  if (adds_bos && !adds_bos->boolean() && model.bos_id >= 0) {
    Message trainer;
    trainer.add_number(41, number_of(-1));
    more.add_bytes(2, trainer.bytes());
  }
  const std::string chat = jinja.empty() ? chat_template_of(beside) : jinja;
  if (!chat.empty() && chat != model.chat_template) more.add_bytes(kChatTemplateField, chat);
  return bytes + more.bytes();
}

}  // namespace kvsmith
