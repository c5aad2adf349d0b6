#include "data/tokenizer.h"

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/text.h"
#include "data/sentencepiece_writer.h"
#include "data/tokenizer_backend.h"
#include "data/tokenizer_json.h"
#include "data/tokenizer_json_writer.h"
#include "data/utf8.h"

namespace kvsmith {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{256} << 20;

void check(std::string_view utf8) {
  if (const size_t bad = find_invalid_utf8(utf8); bad < utf8.size())
    throw Error(ExitCode::kBadData, {.what = cat("invalid UTF-8 at byte ", bad),
                                     .where = "text to encode",
                                     .remedy = "convert it to UTF-8"});
}

/// The content of a file beside another; empty where there is none.
std::string beside(const std::filesystem::path& path, const char* name) {
  const auto file = path.parent_path() / name;
  return std::filesystem::exists(file) ? read_file(file, kMaxFileBytes) : "";
}

}  // namespace

struct Tokenizer::Impl {
  std::string bytes, sha256;
  std::unique_ptr<const TokenizerBackend> backend;

  const TokenizerBackend::Facts& facts() const { return backend->facts(); }
};

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  std::string bytes = read_file(path, kMaxFileBytes);
  const std::string config = beside(path, "tokenizer_config.json"),
                    jinja = beside(path, "chat_template.jinja");
  bytes = is_tokenizer_json(bytes)
              ? with_companions(bytes, config, jinja, path.string())
              : with_companions_of_sentencepiece(bytes, beside(path, "added_tokens.json"), config,
                                                 jinja, path.string());
  return from_bytes(std::move(bytes), path.string());
}

Tokenizer Tokenizer::from_bytes(std::string bytes, const std::string& where) {
  auto impl = std::make_shared<Impl>();
  impl->backend = is_tokenizer_json(bytes) ? make_byte_level_tokenizer(bytes, where)
                                           : make_sentencepiece_tokenizer(bytes, where);
  impl->sha256 = kvsmith::sha256(bytes);
  impl->bytes = std::move(bytes);
  return Tokenizer(impl);
}

std::vector<int32_t> Tokenizer::encode(std::string_view utf8, Begin begin) const {
  std::vector<int32_t> ids;
  ids.reserve(utf8.size() / 4 + 8);
  encode_to(ids, utf8, begin);
  return ids;
}

void Tokenizer::encode_to(std::vector<int32_t>& ids, std::string_view utf8, Begin begin) const {
  check(utf8);
  impl_->backend->encode(utf8, begin, ids);
}

std::vector<int32_t> Tokenizer::encode_with_specials(std::string_view utf8) const {
  check(utf8);
  std::vector<int32_t> ids;
  impl_->backend->encode_with_specials(utf8, Begin::kText, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size())
      throw Error(ExitCode::kBadData,
                  {.what = cat("token ", id, " in a vocabulary of ", vocab_size()),
                   .where = "decode",
                   .remedy = "use the tokenizer the tokens were made with"});
    text += surface(id);
  }
  if (adds_space() && text.starts_with(' ')) text.erase(0, 1);
  uint64_t replaced = 0;
  return find_invalid_utf8(text) == text.size() ? text : replace_invalid_utf8(text, replaced);
}

int32_t Tokenizer::special_id(std::string_view name) const {
  const auto& facts = impl_->facts();
  for (size_t id = 0; id < facts.pieces.size(); ++id)
    if (facts.is_special[id] && facts.pieces[id] == name) return static_cast<int32_t>(id);
  return -1;
}

size_t Tokenizer::last_border(std::string_view utf8, size_t limit) const {
  return impl_->backend->last_border(utf8, limit);
}

bool Tokenizer::is_lossless() const { return impl_->facts().is_lossless; }
int64_t Tokenizer::vocab_size() const { return std::ssize(impl_->facts().pieces); }
const std::string& Tokenizer::piece(int32_t id) const { return impl_->facts().pieces.at(id); }
const std::string& Tokenizer::surface(int32_t id) const { return impl_->facts().surfaces.at(id); }
bool Tokenizer::is_special(int32_t id) const { return impl_->facts().is_special.at(id); }
bool Tokenizer::adds_space() const { return impl_->facts().adds_space; }
int32_t Tokenizer::unk_id() const { return impl_->facts().unk_id; }
int32_t Tokenizer::bos_id() const { return impl_->facts().bos_id; }
int32_t Tokenizer::eos_id() const { return impl_->facts().eos_id; }
int32_t Tokenizer::pad_id() const { return impl_->facts().pad_id; }
const std::string& Tokenizer::bos_piece() const { return impl_->facts().bos_piece; }
const std::string& Tokenizer::chat_template() const { return impl_->facts().chat_template; }
const SentencePieceModel* Tokenizer::sentencepiece() const {
  return impl_->backend->sentencepiece();
}
const std::string& Tokenizer::bytes() const { return impl_->bytes; }
const std::string& Tokenizer::sha256() const { return impl_->sha256; }

}  // namespace kvsmith
