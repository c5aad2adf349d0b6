#include "data/chat_template.h"

#include <array>
#include <cctype>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

using Format = ChatTemplate::Format;

/// What stands around roles and contents. Texts in angle brackets are control tokens.
struct Style {
  std::string_view name;
  std::string_view begin;    ///< of the chat
  std::string_view opening;  ///< before a role
  std::string_view after_role_control, after_role;
  std::string_view end_of_turn, after_turn;
  bool trims;        ///< white space around contents
  bool capitalizes;  ///< the first letter of roles
};

constexpr std::array kStyles = std::to_array<Style>({
    {"plain", "", "", "", ": ", "", "\n\n", false, true},
    {"chatml", "", "<|im_start|>", "", "\n", "<|im_end|>", "\n", false, false},
    {"llama3", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "\n\n",
     "<|eot_id|>", "", true, false},
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

std::optional<Format> ChatTemplate::format_of(std::string_view jinja) {
  if (jinja.empty()) return Format::kPlain;
  for (const Format format : {Format::kChatml, Format::kLlama3})
    if (jinja.find(style_of(format).opening) != jinja.npos) return format;
  return std::nullopt;
}

Format ChatTemplate::format_named(std::string_view name) {
  std::vector<std::string> names;
  for (size_t i = 0; i < kStyles.size(); ++i) {
    if (kStyles[i].name == name) return static_cast<Format>(i);
    names.emplace_back(kStyles[i].name);
  }
  throw Error(ExitCode::kConfig, {.what = cat("no format ", in_quotes(name)),
                                  .where = "chat template",
                                  .remedy = suggestion(name, names)});
}

std::string_view ChatTemplate::name_of(Format format) { return style_of(format).name; }

ChatTemplate ChatTemplate::recognize(std::string_view jinja) {
  const auto format = format_of(jinja);
  if (format) {
    return ChatTemplate(
        *format, jinja.empty() ? std::string() : default_system_of(jinja, style_of(*format)));
  }
  throw Error(ExitCode::kConfig, {.what = "has none of <|im_start|>, <|start_header_id|>",
                                  .where = "chat template",
                                  .remedy = "only ChatML and the format of Llama 3 are supported"});
}

std::vector<ChatTemplate::Part> ChatTemplate::parts(const std::vector<ChatMessage>& messages,
                                                    bool asks) const {
  const Style& style = style_of(format_);
  std::vector<Part> parts;
  const auto add_text = [&](std::string_view text, bool is_learnt = false) {
    if (text.empty()) return;
    // One text between two control tokens is encoded in one go, but for where an answer begins and
    // ends.
    if (parts.empty() || parts.back().is_control || parts.back().ends_answer > 0 ||
        parts.back().is_learnt != is_learnt) {
      parts.push_back({.text = {}, .is_learnt = is_learnt});
    }
    parts.back().text += text;
  };
  const auto add_control = [&](std::string_view name, bool is_learnt = false) {
    if (!name.empty())
      parts.push_back({.text = std::string(name), .is_control = true, .is_learnt = is_learnt});
  };
  const auto open = [&](std::string role) {
    if (style.capitalizes && !role.empty())
      role[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(role[0])));
    add_control(style.opening);
    add_text(role);
    add_control(style.after_role_control);
    add_text(style.after_role);
  };
  const auto add_turn = [&](const ChatMessage& message, size_t number) {
    const bool is_answer = message.role == "assistant", is_learnt = is_answer && message.is_learnt;
    open(message.role);
    if (is_answer) parts.push_back({.text = {}, .is_learnt = is_learnt});
    add_text(style.trims ? trimmed(message.content) : message.content, is_learnt);
    add_control(style.end_of_turn, is_learnt);
    add_text(style.after_turn, is_learnt && style.end_of_turn.empty());
    if (is_answer) parts.back().ends_answer = number;
  };
  add_control(style.begin);
  const bool has_system = !messages.empty() && messages[0].role == "system";
  if (!system_.empty() && !has_system) add_turn({"system", system_}, 0);
  for (size_t i = 0; i < messages.size(); ++i) add_turn(messages[i], i + 1);
  if (asks) open("assistant");
  return parts;
}

std::string ChatTemplate::text(const std::vector<ChatMessage>& messages, bool asks) const {
  std::string text;
  for (const Part& part : parts(messages, asks)) text += part.text;
  return text;
}

ChatTokens ChatTemplate::tokens(const Tokenizer& tokenizer,
                                const std::vector<ChatMessage>& messages,
                                bool asks) const {
  ChatTokens out;
  auto begin = Tokenizer::Begin::kText;
  for (const Part& part : parts(messages, asks)) {
    if (!part.is_control) {
      tokenizer.encode_to(out.ids, part.text, begin);
    } else {
      const int32_t id = tokenizer.special_id(part.text);
      if (id < 0)
        throw Error(ExitCode::kConfig, {.what = cat("the tokenizer has no token ", part.text),
                                        .where = "chat template",
                                        .remedy = "use the plain format"});
      out.ids.push_back(id);
    }
    out.learnt.resize(out.ids.size(), part.is_learnt ? 1 : 0);
    if (part.ends_answer > 0)
      out.answers.push_back({.messages = part.ends_answer, .ids = out.ids.size()});
    begin = Tokenizer::Begin::kInside;
  }
  return out;
}

std::string_view ChatTemplate::end_of_turn() const { return style_of(format_).end_of_turn; }

std::string ChatTemplate::next_turn() const {
  const Style& style = style_of(format_);
  return style.end_of_turn.empty() ? cat(style.after_turn, "User", style.after_role) : "";
}

}  // namespace kvsmith
