#include "data/chat_json.h"

#include <algorithm>
#include <array>

#include "core/text.h"
#include "data/chat_line.h"

namespace kvsmith {
namespace {

struct StyleNames {
  std::string list;
  MessageNames message;
};

const std::array<StyleNames, 2>& style_names() {
  static const std::array<StyleNames, 2> names = {
      StyleNames{"messages", {"role", "content", {"system", "user", "assistant"}}},
      StyleNames{"conversations", {"from", "value", {"system", "human", "gpt"}}}};
  return names;
}

const StyleNames& names_of(ChatStyle style) { return style_names()[static_cast<size_t>(style)]; }

constexpr const char* kExpected =
    "one JSON object a line is expected, with \"messages\" or \"conversations\"";

}  // namespace

ChatStyle chat_style_of(std::string_view line, const std::string& where) {
  const ChatLine chat(line, where, kExpected);
  const bool openai = chat.has(names_of(ChatStyle::kOpenAi).list),
             sharegpt = chat.has(names_of(ChatStyle::kShareGpt).list);
  if (openai && sharegpt)
    chat.refuse("both \"messages\" and \"conversations\"", "keep one of them");
  if (openai) return ChatStyle::kOpenAi;
  if (sharegpt) return ChatStyle::kShareGpt;
  chat.refuse_kind("neither \"messages\" nor \"conversations\"");
}

std::vector<ChatMessage> parse_chat(std::string_view line,
                                    ChatStyle style,
                                    const std::string& where) {
  const ChatLine chat(line, where, kExpected);
  const auto& [list, names] = names_of(style);
  if (!chat.has(list)) {
    chat.refuse(cat("no \"", list, '"'),
                "the first chat of the file has it, and all must be alike");
  }
  auto messages = chat.messages(list, names);
  const auto is_answer = [](const ChatMessage& m) { return m.role == "assistant"; };
  const auto is_learnt = [&](const ChatMessage& m) { return is_answer(m) && m.is_learnt; };
  if (std::ranges::none_of(messages, is_answer)) {
    chat.refuse(cat("no turn of the assistant among ", messages.size()),
                cat("expected one with \"", names.role, "\": \"", names.roles[2], '"'));
  }
  if (std::ranges::none_of(messages, is_learnt))
    chat.refuse("every turn of the assistant has weight 0", "remove the chat");
  return messages;
}

}  // namespace kvsmith
