#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/chat_template.h"

namespace kvsmith {

/// How a line of JSON says a chat: the names of its keys and of who speaks.
enum class ChatStyle : uint8_t {
  kOpenAi,    ///< {"messages": [{"role": "user", "content": "..."}, ...]}
  kShareGpt,  ///< {"conversations": [{"from": "human", "value": "..."}, ...]}
};

/// Which of them the object in `line` is, by the key that it has. Throws Error (65), as
/// parse_chat(), when it has neither or both.
ChatStyle chat_style_of(std::string_view line, const std::string& where);

/// The messages of the chat in `line`, with the roles "system", "user" and "assistant". Other keys
/// of the object and of its messages are passed over, but for "weight" of an assistant's message in
/// OpenAI's style: 0 for one that is not to be learnt, else 1.
///
/// Throws Error (65), naming `where` and the message, for a line that is not UTF-8 or not one JSON
/// object, has a key twice, lacks the style's keys or has them as something else than texts; for an
/// unknown role, a system message anywhere but at the beginning, an assistant's message of nothing
/// but white space, a NUL byte; and for a chat in which the assistant says nothing to be learnt.
std::vector<ChatMessage> parse_chat(std::string_view line,
                                    ChatStyle style,
                                    const std::string& where);

}  // namespace kvsmith
