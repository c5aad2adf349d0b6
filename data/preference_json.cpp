#include "data/preference_json.h"

#include <algorithm>

#include "core/text.h"
#include "data/chat_line.h"

namespace kvsmith {
namespace {

constexpr const char *kPrompt = "prompt", *kChosen = "chosen", *kRejected = "rejected";
constexpr const char* kExpected =
    "one JSON object a line is expected, with \"chosen\" and \"rejected\", and \"prompt\" where "
    "they do not begin with it";

Preference parse_texts(const ChatLine& line) {
  const auto message = [&](const char* key) {
    return std::vector<ChatMessage>{{.role = "", .content = line.text(key)}};
  };
  if (!line.has(kPrompt)) {
    line.refuse("texts without a \"prompt\"",
                "name what both answer; only conversations may begin with it");
  }
  Preference out{.is_chat = false,
                 .prompt = message(kPrompt),
                 .chosen = message(kChosen),
                 .rejected = message(kRejected)};
  for (const auto& [key, answer] : {std::pair{kChosen, &out.chosen}, {kRejected, &out.rejected}})
    if (is_blank(answer->front().content))
      line.refuse(cat('"', key, "\" is an empty text"), "remove the pair");
  return out;
}

/// Messages at the beginning of both, less than all of either.
size_t common_beginning(const std::vector<ChatMessage>& a, const std::vector<ChatMessage>& b) {
  const size_t most = std::min(a.size(), b.size());
  size_t common = 0;
  while (common + 1 < most && a[common].role == b[common].role &&
         a[common].content == b[common].content)
    ++common;
  return common;
}

/// `first`: where in the list under `key` the answer begins.
void expect_answer(const ChatLine& line,
                   const char* key,
                   const std::vector<ChatMessage>& answer,
                   size_t first) {
  if (answer.empty()) line.refuse(cat('"', key, "\" has no messages"), "remove the pair");
  if (answer[0].role != "assistant") {
    line.refuse(cat(key, '[', first, "] is of the ", answer[0].role, ", where the answer begins"),
                "both answer the same prompt, and the assistant gives them");
  }
  if (std::ranges::none_of(
          answer, [](const ChatMessage& m) { return m.role == "assistant" && m.is_learnt; }))
    line.refuse(cat("every turn of the assistant in the answer of \"", key, "\" has weight 0"),
                "remove the pair");
}

}  // namespace

Preference parse_preference(std::string_view text, const std::string& where) {
  const ChatLine line(text, where, kExpected);
  if (!line.has(kChosen)) line.refuse_kind(cat("no \"", kChosen, '"'));
  if (!line.has_array(kChosen)) return parse_texts(line);
  static const MessageNames names = {"role", "content", {"system", "user", "assistant"}};
  Preference out{.chosen = line.messages(kChosen, names),
                 .rejected = line.messages(kRejected, names)};
  size_t first = 0;
  if (line.has_array(kPrompt)) {
    out.prompt = line.messages(kPrompt, names);
  } else {
    first = common_beginning(out.chosen, out.rejected);
    const auto begin = out.chosen.begin(), end = begin + static_cast<std::ptrdiff_t>(first);
    out.prompt.assign(begin, end);
    out.chosen.erase(begin, end);
    out.rejected.erase(out.rejected.begin(),
                       out.rejected.begin() + static_cast<std::ptrdiff_t>(first));
  }
  expect_answer(line, kChosen, out.chosen, first);
  expect_answer(line, kRejected, out.rejected, first);
  if (out.prompt.empty())
    line.refuse("nothing is asked", "give a \"prompt\", or begin both with it");
  for (ChatMessage& message : out.prompt) message.is_learnt = false;
  return out;
}

}  // namespace kvsmith
