#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "data/chat_template.h"

namespace kvsmith {

/// Two answers to one prompt, of which the first is preferred.
struct Preference {
  bool is_chat = true;  ///< else each list is one message without role: plain text
  /// The messages before an answer; none of them is to be learnt.
  std::vector<ChatMessage> prompt = {};
  /// Each begins with what the assistant says.
  std::vector<ChatMessage> chosen = {}, rejected = {};
};

/// The pair in a line, as TRL writes them. Other keys are passed over.
///
///   {"prompt": [messages], "chosen": [messages], "rejected": [messages]}
///   {"chosen": [messages], "rejected": [messages]}: whole conversations, whose common beginning is
///       the prompt; a "prompt" that is a text is passed over, as in UltraFeedback's files
///   {"prompt": "text", "chosen": "text", "rejected": "text"}
///
/// Messages have "role" and "content", and "weight" as in parse_chat(). Throws Error (65), naming
/// `where` and the message, for what ChatLine refuses, and where an answer is empty, does not begin
/// with the assistant, or says nothing to be learnt.
Preference parse_preference(std::string_view line, const std::string& where);

}  // namespace kvsmith
