#include "data/chat_template.h"

#include <array>
#include <cctype>
#include <optional>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

using Format = ChatTemplate::Format;

/// What stands around roles and contents. Texts in angle brackets are control tokens.
struct Style {
  std::string_view begin;    ///< of the chat
  std::string_view opening;  ///< before a role
  std::string_view after_role_control, after_role;
  std::string_view end_of_turn, after_turn;
  bool trims;        ///< white space around contents
  bool capitalizes;  ///< the first letter of roles
};

constexpr std::array kStyles = std::to_array<Style>({
    {"", "", "", ": ", "", "\n\n", false, true},
    {"", "<|im_start|>", "", "\n", "<|im_end|>", "\n", false, false},
    {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "\n\n", "<|eot_id|>", "",
     true, false},
});

const Style& style_of(Format format) { return kStyles[static_cast<size_t>(format)]; }

/// As Python's str.strip() for ASCII.
std::string trimmed(const std::string& text) {
  constexpr std::string_view kWhite = " \t\n\r\v\f";
  const size_t begin = text.find_first_not_of(kWhite);
  return begin == text.npos ? "" : text.substr(begin, text.find_last_not_of(kWhite) + 1 - begin);
}

/// A Jinja string literal from `at`, its opening mark gone, up to `end`; none where the literal is
/// over before.
std::optional<std::string> literal_until(std::string_view jinja,
                                         size_t at,
                                         char mark,
                                         std::string_view end) {
  std::string text;
  for (; at < jinja.size() && jinja[at] != mark; ++at) {
    if (jinja.substr(at).starts_with(end)) return text;
    if (jinja[at] != '\\' || at + 1 == jinja.size()) {
      text += jinja[at];
      continue;
    }
    const char escaped = jinja[++at];
    text += escaped == 'n' ? '\n' : escaped == 't' ? '\t' : escaped;
  }
  return std::nullopt;
}

/// What the template says where no system message is given: a literal with all of a system turn.
std::string default_system_of(std::string_view jinja, const Style& style) {
  for (size_t at = 0; (at = jinja.find(style.opening, at)) != jinja.npos; ++at) {
    const char mark = at == 0 ? '\0' : jinja[at - 1];
    if (mark != '\'' && mark != '"') continue;
    const auto turn = literal_until(jinja, at, mark, style.end_of_turn);
    const std::string head =
        cat(style.opening, "system", style.after_role_control, style.after_role);
    if (turn && turn->starts_with(head)) return turn->substr(head.size());
  }
  return "";
}

}  // namespace

ChatTemplate ChatTemplate::recognize(std::string_view jinja) {
  if (jinja.empty()) return ChatTemplate(Format::kPlain);
  for (const Format format : {Format::kChatml, Format::kLlama3})
    if (jinja.find(style_of(format).opening) != jinja.npos)
      return ChatTemplate(format, default_system_of(jinja, style_of(format)));
  throw Error(ExitCode::kConfig, {.what = "has none of <|im_start|>, <|start_header_id|>",
                                  .where = "chat template",
                                  .remedy = "only ChatML and the format of Llama 3 are supported"});
}

std::vector<ChatTemplate::Part> ChatTemplate::parts(const std::vector<ChatMessage>& messages,
                                                    bool asks) const {
  const Style& style = style_of(format_);
  std::vector<Part> parts;
  const auto add_text = [&](std::string_view text) {
    if (text.empty()) return;
    // One text between two control tokens is encoded in one go.
    if (parts.empty() || parts.back().is_control) parts.emplace_back();
    parts.back().text += text;
  };
  const auto add_control = [&](std::string_view name) {
    if (!name.empty()) parts.push_back({std::string(name), true});
  };
  const auto open = [&](std::string role) {
    if (style.capitalizes && !role.empty())
      role[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(role[0])));
    add_control(style.opening);
    add_text(role);
    add_control(style.after_role_control);
    add_text(style.after_role);
  };
  const auto add_turn = [&](const ChatMessage& message) {
    open(message.role);
    add_text(style.trims ? trimmed(message.content) : message.content);
    add_control(style.end_of_turn);
    add_text(style.after_turn);
  };
  add_control(style.begin);
  const bool has_system = !messages.empty() && messages[0].role == "system";
  if (!system_.empty() && !has_system) add_turn({"system", system_});
  for (const ChatMessage& message : messages) add_turn(message);
  if (asks) open("assistant");
  return parts;
}

std::string ChatTemplate::text(const std::vector<ChatMessage>& messages, bool asks) const {
  std::string text;
  for (const Part& part : parts(messages, asks)) text += part.text;
  return text;
}

std::vector<int32_t> ChatTemplate::ids(const Tokenizer& tokenizer,
                                       const std::vector<ChatMessage>& messages,
                                       bool asks) const {
  std::vector<int32_t> ids;
  auto begin = Tokenizer::Begin::kText;
  for (const Part& part : parts(messages, asks)) {
    if (!part.is_control) {
      tokenizer.encode_to(ids, part.text, begin);
    } else {
      const int32_t id = tokenizer.special_id(part.text);
      if (id < 0)
        throw Error(ExitCode::kConfig, {.what = cat("the tokenizer has no token ", part.text),
                                        .where = "chat template",
                                        .remedy = "use the plain format"});
      ids.push_back(id);
    }
    begin = Tokenizer::Begin::kInside;
  }
  return ids;
}

std::string_view ChatTemplate::end_of_turn() const { return style_of(format_).end_of_turn; }

std::string ChatTemplate::next_turn() const {
  const Style& style = style_of(format_);
  return style.end_of_turn.empty() ? cat(style.after_turn, "User", style.after_role) : "";
}

}  // namespace kvsmith
