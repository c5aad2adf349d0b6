#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/build.h"
#include "data/chat_template.h"
#include "data/tokenizer.h"

namespace kvsmith {

/// A conversation or another text as a corpus that marks what is to be learnt holds it.
struct ChatDocument {
  std::vector<int32_t> ids = {};
  std::vector<uint8_t> learnt = {};
  size_t turns = 0, dropped_turns = 0;
  bool is_truncated = false;

  uint64_t learnt_tokens() const;
};

/// Turns conversations into documents of a corpus. Safe to use from several threads.
class ChatWriter {
 public:
  /// Throws Error (78) for a format that is none, or a template of a tokenizer that has none.
  ChatWriter(const ChatOptions& options, const Tokenizer& tokenizer);

  ChatTemplate::Format format() const { return template_.format(); }
  /// Whether the tokenizer names this format.
  bool is_format_of_tokenizer() const;

  /// A conversation, shortened as ChatOptions say; none when nothing to learn fits.
  std::optional<ChatDocument> write(const std::vector<ChatMessage>& chat) const;
  /// A conversation as it is, however long.
  ChatDocument whole(const std::vector<ChatMessage>& chat) const;
  /// A text without format of which `answer`, and the end of the text, are to be learnt.
  ChatDocument whole(const std::string& prompt, const std::string& answer) const;
  /// Shortens a document as ChatOptions say; false where it is too long and they say nothing, or
  /// nothing to learn is left.
  bool fit(ChatDocument& document) const;

  /// Length of a document as UTF-8 text.
  uint64_t text_bytes(const ChatDocument& document) const;

 private:
  /// Tokens between begin- and end-of-text, -1 for none.
  static ChatDocument enclosed(const ChatTokens& tokens, int32_t bos, int32_t eos);

  const Tokenizer& tokenizer_;
  ChatTemplate template_;
  size_t longest_;
  bool truncates_;
  int32_t bos_ = -1, eos_ = -1;  ///< around conversations of this format; -1: none
};

}  // namespace kvsmith
