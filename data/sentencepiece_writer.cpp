#include "data/sentencepiece_writer.h"

#include <bit>
#include <cstdint>
#include <string_view>

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

}  // namespace

// Field numbers are those of sentencepiece_model.proto, as in sentencepiece_model.cpp.
std::string sentencepiece_model_bytes(const SentencePieceModel& model) {
  Message out;
  for (const auto& piece : model.pieces) {
    Message message;
    message.add_bytes(1, piece.text);
    message.add_float(2, piece.score);
    if (piece.type != SentencePieceModel::Type::kNormal)
      message.add_number(3, static_cast<uint64_t>(piece.type));
    out.add_bytes(1, message.bytes());
  }
  // an id of -1 takes ten bytes, as protobuf has it
  const auto id = [](int32_t value) { return static_cast<uint64_t>(int64_t{value}); };
  Message trainer;
  trainer.add_number(3, static_cast<uint64_t>(model.algorithm));
  trainer.add_number(4, model.pieces.size());
  trainer.add_number(24, model.treat_whitespace_as_suffix ? 1 : 0);
  trainer.add_number(35, model.byte_fallback ? 1 : 0);
  trainer.add_number(40, id(model.unk_id));
  trainer.add_number(41, id(model.bos_id));
  trainer.add_number(42, id(model.eos_id));
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
  return out.bytes();
}

}  // namespace kvsmith
