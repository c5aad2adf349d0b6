#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace kvsmith {

struct ChatMessage {
  std::string role;  ///< "system", "user", "assistant"
  std::string content;
  bool is_learnt = true;  ///< of the assistant's: whether it is to be imitated
};

/// The ids of a chat, and what of them a model is to learn to say.
struct ChatTokens {
  /// Where an assistant's turn ends.
  struct Answer {
    size_t messages;  ///< up to and with it
    size_t ids;
  };

  std::vector<int32_t> ids;
  std::vector<uint8_t> learnt;  ///< of each id: 1 for what the assistant says and its end, else 0
  std::vector<Answer> answers;  ///< in order; the ids up to each are those of the chat up to there
};

/// How a chat is put to a model. Not an interpreter of Jinja: a few known formats, of which a
/// stored template is recognised by the control tokens in it.
class ChatTemplate {
 public:
  enum class Format : uint8_t {
    kPlain,   ///< "User: ...", "Assistant: ...", blank lines between; no control tokens
    kChatml,  ///< `<|im_start|>role`, content, `<|im_end|>`
    kLlama3,  ///< `<|start_header_id|>role<|end_header_id|>`, content trimmed, `<|eot_id|>`
  };

  /// `system` is what a chat that does not begin with a system message begins with; empty: nothing.
  explicit ChatTemplate(Format format, std::string system = "")
      : format_(format), system_(std::move(system)) {}
  /// The format of a Jinja text, by its control tokens; kPlain for an empty text, none where it has
  /// no known ones.
  static std::optional<Format> format_of(std::string_view jinja);
  /// "plain", "chatml" or "llama3". Throws Error (78) with the nearest for another name.
  static Format format_named(std::string_view name);
  static std::string_view name_of(Format format);
  /// Of the Jinja text in a tokenizer: the format, and the default system prompt where one stands
  /// in it, as in SmolLM2's and Qwen2.5's. Plain for an empty text; Error (78) for one without
  /// known control tokens.
  static ChatTemplate recognize(std::string_view jinja);

  Format format() const { return format_; }
  const std::string& default_system() const { return system_; }

  /// The chat as one text; with `asks` up to where the assistant's answer begins.
  std::string text(const std::vector<ChatMessage>& messages, bool asks) const;
  /// Its tokens. What the assistant says is encoded apart from what stands around it, so that the
  /// tokens of a question are those that stand before its answer in the whole chat. Learnt are the
  /// contents of the assistant's messages and what ends them: end_of_turn(), or the blank line of
  /// kPlain. Only the format's own control tokens become such: what looks like one in a role or a
  /// content is text. Throws 78 when the tokenizer lacks them.
  ChatTokens tokens(const Tokenizer& tokenizer,
                    const std::vector<ChatMessage>& messages,
                    bool asks) const;
  std::vector<int32_t> ids(const Tokenizer& tokenizer,
                           const std::vector<ChatMessage>& messages,
                           bool asks) const {
    return tokens(tokenizer, messages, asks).ids;
  }
  /// The control token after which an answer is over; empty for kPlain.
  std::string_view end_of_turn() const;
  /// The text that begins the user's next turn, where only that tells that an answer is over; empty
  /// for formats with an end_of_turn().
  std::string next_turn() const;

 private:
  struct Part {
    std::string text;
    bool is_control = false;
    bool is_learnt = false;
    size_t ends_answer =
        0;  ///< the number of messages up to here where it ends an assistant's turn
  };
  std::vector<Part> parts(const std::vector<ChatMessage>& messages, bool asks) const;

  Format format_;
  std::string system_;
};

}  // namespace kvsmith
