#include "data/sentencepiece_model.h"

#include <bit>
#include <cmath>
#include <unordered_set>

#include "core/error.h"
#include "core/text.h"
#include "data/utf8.h"

namespace kvsmith {
namespace {

constexpr size_t kMaxPieces = size_t{1} << 20;
constexpr size_t kMaxPieceBytes = 4096;

/// Field numbers of sentencepiece_model.proto.
enum ModelField : uint32_t {
  kPieces = 1,
  kTrainerSpec = 2,
  kNormalizerSpec = 3,
  kSelfTest = 4,
  kDenormalizerSpec = 5
};

struct Field {
  uint32_t number = 0;
  uint64_t value = 0;        ///< of a varint or fixed field
  std::string_view bytes{};  ///< of a length-delimited field
  size_t begin = 0, end = 0;
};

/// The fields of one protobuf message, one after the other.
class Wire {
 public:
  Wire(std::string_view message, const std::string& where) : message_(message), where_(where) {}

  bool next(Field& field) {
    if (at_ == message_.size()) return false;
    field = {.begin = at_};
    const uint64_t key = varint();
    if (key >> 3 == 0 || key >> 3 > 0x1FFFFFFF) fail("field number out of range");
    field.number = static_cast<uint32_t>(key >> 3);
    switch (key & 7) {
      case 0:
        field.value = varint();
        break;
      case 1:
        field.value = fixed(8);
        break;
      case 2:
        field.bytes = take(varint());
        break;
      case 5:
        field.value = fixed(4);
        break;
      default:
        fail(cat("wire type ", key & 7, " does not exist in a model file"));
    }
    field.end = at_;
    return true;
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ExitCode::kBadData, {.what = cat(what, " at byte ", at_, " of ", message_.size()),
                                     .where = where_,
                                     .remedy = "not a SentencePiece model, or a damaged one"});
  }

 private:
  std::string_view take(uint64_t count) {
    if (count > message_.size() - at_)
      fail(cat("a field of ", count, " bytes where ", message_.size() - at_, " are left"));
    const std::string_view bytes = message_.substr(at_, count);
    at_ += count;
    return bytes;
  }
  uint64_t fixed(size_t count) {
    uint64_t value = 0;
    int shift = 0;
    for (const char c : take(count)) {
      value |= uint64_t{static_cast<unsigned char>(c)} << shift;
      shift += 8;
    }
    return value;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const uint64_t byte = static_cast<unsigned char>(take(1)[0]);
      value |= (byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    fail("a number of more than 10 bytes");
  }

  std::string_view message_;
  const std::string& where_;
  size_t at_ = 0;
};

/// Calls `use` with each field of a message known to be well-formed, and with its bytes.
template <class Use>
void for_each_field(std::string_view message, Use use) {
  const std::string where = "model";
  Wire wire(message, where);
  for (Field field; wire.next(field);)
    use(field, message.substr(field.begin, field.end - field.begin));
}

std::string with_commas(size_t number) {
  std::string digits = std::to_string(number);
  for (size_t at = digits.size(); at > 3;) digits.insert(at -= 3, ",");
  return digits;
}

SentencePieceModel::Piece parse_piece(std::string_view message, const std::string& where) {
  SentencePieceModel::Piece piece;
  uint64_t type = 1;
  Wire wire(message, where);
  for (Field field; wire.next(field);) {
    if (field.number == 1) piece.text = field.bytes;
    if (field.number == 2) piece.score = std::bit_cast<float>(static_cast<uint32_t>(field.value));
    if (field.number == 3) type = field.value;
  }
  const auto expect = [&](bool holds, const std::string& what) {
    if (!holds)
      throw Error(ExitCode::kBadData,
                  {.what = what, .where = where, .remedy = "the model file is damaged"});
  };
  expect(type >= 1 && type <= 6, cat("type ", type, " is none of 1 to 6"));
  piece.type = static_cast<SentencePieceModel::Type>(type);
  expect(!piece.text.empty(), "has no text");
  expect(piece.text.size() <= kMaxPieceBytes,
         cat(piece.text.size(), " bytes long, at most ", kMaxPieceBytes, " are sensible"));
  expect(piece.text.find('\0') == std::string::npos, "contains a NUL byte");
  expect(find_invalid_utf8(piece.text) == piece.text.size(),
         cat("\"", piece.text, "\" is not UTF-8"));
  expect(std::isfinite(piece.score), "its score is not a finite number");
  expect(piece.type != SentencePieceModel::Type::kByte || byte_of_piece(piece.text) >= 0,
         cat("\"", piece.text, "\" has the type of a byte but is none of <0x00> to <0xFF>"));
  return piece;
}

void parse_trainer_spec(std::string_view message,
                        const std::string& where,
                        SentencePieceModel& model) {
  Wire wire(message, where);
  for (Field field; wire.next(field);) {
    switch (field.number) {
      case 3:
        if (field.value < 1 || field.value > 4)
          wire.fail(cat("model type ", field.value, " is none of 1 to 4"));
        model.algorithm = static_cast<SentencePieceModel::Algorithm>(field.value);
        break;
      case 24:
        model.treat_whitespace_as_suffix = field.value != 0;
        break;
      case 35:
        model.byte_fallback = field.value != 0;
        break;
      case 44:
        model.unk_surface = field.bytes;
        break;
      case 40:
        model.unk_id = static_cast<int32_t>(field.value);
        break;
      case 41:
        model.bos_id = static_cast<int32_t>(field.value);
        break;
      case 42:
        model.eos_id = static_cast<int32_t>(field.value);
        break;
      default:
        break;
    }
  }
}

uint32_t little_endian(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i)
    value |= uint32_t{static_cast<unsigned char>(bytes[at + i])} << (8 * i);
  return value;
}

/// The library follows the offsets of this double-array trie without looking; so they are looked at
/// here. Layout: byte size of the trie, trie, replacement texts each ended by NUL.
void check_charsmap(std::string_view map, const std::string& where) {
  const auto expect = [&](bool holds, const std::string& what) {
    if (!holds)
      throw Error(ExitCode::kBadData, {.what = cat("precompiled_charsmap: ", what),
                                       .where = where,
                                       .remedy = "the model file is damaged"});
  };
  expect(map.size() > 4, cat(map.size(), " bytes"));
  const size_t trie_bytes = little_endian(map, 0);
  expect(trie_bytes % 1024 == 0 && trie_bytes > 0 && trie_bytes < map.size() - 4,
         cat("a trie of ", trie_bytes, " bytes in a map of ", map.size()));
  const std::string_view trie = map.substr(4, trie_bytes), texts = map.substr(4 + trie_bytes);
  expect(texts.back() == '\0', "the last replacement is cut off");
  const size_t units = trie_bytes / 4;
  for (size_t i = 0; i < units; ++i) {
    const uint32_t unit = little_endian(trie, 4 * i);
    if (unit >> 31) continue;  // a value, looked at through its parent
    const size_t child = i ^ (size_t{unit >> 10} << ((unit & 0x200) >> 6));
    expect((child | 0xFF) < units, cat("unit ", i, " points outside the trie"));
    const bool has_value = unit & 0x100;
    expect(!has_value || (little_endian(trie, 4 * child) & 0x7FFFFFFF) < texts.size(),
           cat("unit ", i, " points outside the replacement texts"));
  }
}

void parse_normalizer_spec(std::string_view message,
                           const std::string& where,
                           SentencePieceModel& model) {
  Wire wire(message, where);
  for (Field field; wire.next(field);) {
    switch (field.number) {
      case 1:
        model.normalizer = field.bytes;
        break;
      case 2:
        if (!field.bytes.empty()) check_charsmap(field.bytes, where);
        model.charsmap_bytes = field.bytes.size();
        break;
      case 3:
        model.add_dummy_prefix = field.value != 0;
        break;
      case 4:
        model.remove_extra_whitespaces = field.value != 0;
        break;
      case 5:
        model.escape_whitespaces = field.value != 0;
        break;
      default:
        break;
    }
  }
}

void check_pieces(const SentencePieceModel& model, const std::string& where) {
  using Type = SentencePieceModel::Type;
  const auto refuse = [](const std::string& what, const std::string& place) {
    throw Error(ExitCode::kBadData,
                {.what = what, .where = place, .remedy = "the model file is damaged"});
  };
  std::unordered_set<std::string_view> seen;
  size_t unknowns = 0, bytes = 0;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const auto& piece = model.pieces[id];
    if (!seen.insert(piece.text).second)
      refuse(cat("\"", piece.text, "\" is there twice"), cat(where, ": piece ", with_commas(id)));
    unknowns += piece.type == Type::kUnknown;
    bytes += piece.type == Type::kByte;
  }
  if (model.pieces.empty()) refuse("no pieces", where);
  if (unknowns != 1) refuse(cat(unknowns, " unknown pieces, expected 1"), where);
  if (bytes != (model.byte_fallback ? 256 : 0))
    refuse(cat(bytes, " of 256 byte pieces, and byte fallback is ",
               model.byte_fallback ? "on" : "off"),
           where);
}

/// The id of the piece with the given text and type; the ids in the trainer's notes may be stale.
int32_t find_piece(const SentencePieceModel& model, int32_t hint, SentencePieceModel::Type type) {
  if (hint < 0 || hint >= std::ssize(model.pieces)) return -1;
  return model.pieces[hint].type == type ? hint : -1;
}

}  // namespace

bool SentencePieceModel::lossless() const {
  return byte_fallback && charsmap_bytes == 0 && !denormalizes && !remove_extra_whitespaces &&
         escape_whitespaces && !treat_whitespace_as_suffix;
}

int byte_of_piece(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  const size_t high = kDigits.find(text[3]), low = kDigits.find(text[4]);
  if (high == kDigits.npos || low == kDigits.npos) return -1;
  return static_cast<int>(high * 16 + low);
}

SentencePieceModel parse_sentencepiece_model(std::string_view bytes, const std::string& where) {
  SentencePieceModel model;
  // Defaults of the schema, for files that do not say.
  model.unk_id = 0, model.bos_id = 1, model.eos_id = 2;
  Wire wire(bytes, where);
  for (Field field; wire.next(field);) {
    if (field.number == kPieces) {
      if (model.pieces.size() == kMaxPieces)
        wire.fail(cat("more than ", with_commas(kMaxPieces), " pieces"));
      model.pieces.push_back(
          parse_piece(field.bytes, cat(where, ": piece ", with_commas(model.pieces.size()))));
    }
    if (field.number == kTrainerSpec)
      parse_trainer_spec(field.bytes, cat(where, ": trainer_spec"), model);
    if (field.number == kNormalizerSpec)
      parse_normalizer_spec(field.bytes, cat(where, ": normalizer_spec"), model);
    if (field.number == kChatTemplateField) model.chat_template = field.bytes;
    if (field.number == kDenormalizerSpec) {
      SentencePieceModel denormalizer;
      parse_normalizer_spec(field.bytes, cat(where, ": denormalizer_spec"), denormalizer);
      model.denormalizes = denormalizer.charsmap_bytes > 0;
    }
  }
  check_pieces(model, where);
  using Type = SentencePieceModel::Type;
  model.unk_id = -1;
  for (size_t id = 0; id < model.pieces.size(); ++id)
    if (model.pieces[id].type == Type::kUnknown) model.unk_id = static_cast<int32_t>(id);
  model.bos_id = find_piece(model, model.bos_id, Type::kControl);
  model.eos_id = find_piece(model, model.eos_id, Type::kControl);
  return model;
}

std::string without_dummy_prefix(std::string_view bytes) {
  std::string out;
  for_each_field(bytes, [&](const Field& field, std::string_view raw) {
    if (field.number != kSelfTest) out += raw;
  });
  // A message given twice is merged: normalizer_spec {add_dummy_prefix: false} wins as the last.
  return out.append("\x1A\x02\x18\x00", 4);
}

std::string without_thread_count(std::string_view bytes) {
  constexpr uint32_t kNumThreads = 16;  // of trainer_spec
  std::string out;
  for_each_field(bytes, [&](const Field& field, std::string_view raw) {
    if (field.number != kTrainerSpec) {
      out += raw;
      return;
    }
    std::string spec;
    for_each_field(field.bytes, [&](const Field& inner, std::string_view inner_raw) {
      if (inner.number != kNumThreads) spec += inner_raw;
    });
    out += '\x12';
    size_t size = spec.size();
    for (; size > 0x7F; size >>= 7) out += static_cast<char>((size & 0x7F) | 0x80);
    out += static_cast<char>(size);
    out += spec;
  });
  return out;
}

}  // namespace kvsmith
