#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace kvsmith {

/// The kind of model behind a Tokenizer.
class TokenizerBackend {
 public:
  using Begin = Tokenizer::Begin;

  /// What there is to know without encoding anything; does not change.
  struct Facts {
    std::vector<std::string> pieces, surfaces;  ///< by id
    std::vector<bool> is_special;               ///< by id: stands for no text
    int32_t unk_id = -1, bos_id = -1, eos_id = -1, pad_id = -1;
    bool is_lossless = false;
    bool adds_space = false;  ///< before a text, which decoding takes away
    std::string chat_template;
    std::string bos_piece;  ///< known even where texts do not begin with it
  };

  explicit TokenizerBackend(Facts facts) : facts_(std::move(facts)) {}
  virtual ~TokenizerBackend() = default;
  TokenizerBackend(const TokenizerBackend&) = delete;
  TokenizerBackend& operator=(const TokenizerBackend&) = delete;

  const Facts& facts() const { return facts_; }

  /// Appends the ids of valid UTF-8. Safe to call from several threads.
  virtual void encode(std::string_view text, Begin begin, std::vector<int32_t>& ids) const = 0;
  /// As encode(), but special tokens in the text become their ids.
  virtual void encode_with_specials(std::string_view text,
                                    Begin begin,
                                    std::vector<int32_t>& ids) const = 0;
  /// As Tokenizer::last_border().
  virtual size_t last_border(std::string_view text, size_t limit) const = 0;
  /// None for other kinds.
  virtual const SentencePieceModel* sentencepiece() const { return nullptr; }

 private:
  Facts facts_;
};

/// Both throw as Tokenizer::from_bytes() does.
std::unique_ptr<TokenizerBackend> make_sentencepiece_tokenizer(const std::string& bytes,
                                                               const std::string& where);
std::unique_ptr<TokenizerBackend> make_byte_level_tokenizer(const std::string& bytes,
                                                            const std::string& where);

}  // namespace kvsmith
