#include "data/chat_json.h"

#include <algorithm>
#include <array>
#include <set>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/text.h"
#include "data/utf8.h"

namespace kvsmith {
namespace {

using Json = nlohmann::json;

struct StyleNames {
  std::string list, role, content;
  std::array<std::string, 3> roles;  ///< as many as kRoles
};

constexpr std::array kRoles = {"system", "user", "assistant"};

const std::array<StyleNames, 2>& style_names() {
  static const std::array<StyleNames, 2> names = {
      StyleNames{"messages", "role", "content", {"system", "user", "assistant"}},
      StyleNames{"conversations", "from", "value", {"system", "human", "gpt"}}};
  return names;
}

const StyleNames& names_of(ChatStyle style) { return style_names()[static_cast<size_t>(style)]; }

/// Reads one line; every fault is told with its place.
class LineParser {
 public:
  LineParser(std::string_view line, const std::string& where) : line_(line), where_(where) {}

  Json object() const {
    if (const size_t bad = find_invalid_utf8(line_); bad < line_.size())
      refuse(cat("invalid UTF-8 at byte ", bad, " of the line"), "convert the file to UTF-8");
    Json json;
    try {
      json = Json::parse(line_, unique_keys());
    } catch (const Json::exception& error) {
      refuse(cat("malformed JSON (", error.what(), ")"), kExpected);
    }
    if (!json.is_object()) refuse(cat("the line is ", kind_of(json)), kExpected);
    return json;
  }

  ChatMessage message(const Json& item, size_t index, const StyleNames& names) const {
    const std::string at = cat(names.list, '[', index, ']');
    if (!item.is_object()) refuse(cat(at, " is ", kind_of(item), ", not an object"), "");
    const std::string role = text(item, at, names.role);
    const auto known = std::ranges::find(names.roles, role);
    if (known == names.roles.end()) {
      refuse(cat(at, '.', names.role, " is ", in_quotes(role)),
             suggestion(role, {names.roles.begin(), names.roles.end()}));
    }
    ChatMessage out{.role = kRoles[static_cast<size_t>(known - names.roles.begin())],
                    .content = text(item, at, names.content)};
    if (const size_t nul = out.content.find('\0'); nul != out.content.npos)
      refuse(cat("a NUL byte at byte ", nul, " of ", at, '.', names.content), "");
    if (out.role == "system" && index > 0) {
      refuse(cat(at, " is a system message, but not the first of the chat"),
             "a chat has at most one, at its beginning");
    }
    if (out.role != "assistant") return out;
    if (out.content.find_first_not_of(" \t\r\n\v\f") == out.content.npos)
      refuse(cat(at, " is an empty turn of the assistant"), "remove it or the chat");
    out.is_learnt = weight(item, at) != 0;
    return out;
  }

  [[noreturn]] void refuse(const std::string& what, const std::string& remedy) const {
    throw Error(ExitCode::kBadData, {.what = what, .where = where_, .remedy = remedy});
  }

  static std::string kind_of(const Json& json) {
    if (json.is_null()) return "null";
    if (json.is_array() || json.is_object()) return cat("an ", json.type_name());
    return cat("a ", json.type_name());
  }

  static constexpr const char* kExpected =
      "one JSON object a line is expected, with \"messages\" or \"conversations\"";

 private:
  /// Of two values under one key the parser would keep the last.
  Json::parser_callback_t unique_keys() const {
    return [this, open = std::vector<std::set<std::string>>()](int, Json::parse_event_t event,
                                                               const Json& parsed) mutable {
      if (event == Json::parse_event_t::object_start) open.emplace_back();
      if (event == Json::parse_event_t::object_end) open.pop_back();
      if (event == Json::parse_event_t::key &&
          !open.back().insert(parsed.get<std::string>()).second) {
        refuse(cat("the key ", in_quotes(parsed.get<std::string>()), " is there twice"), "");
      }
      return true;
    };
  }

  std::string text(const Json& item, const std::string& at, const std::string& key) const {
    const auto found = item.find(key);
    if (found == item.end()) {
      std::vector<std::string> keys;
      for (const auto& [name, value] : item.items()) keys.push_back(name);
      refuse(cat("no \"", key, "\" in ", at),
             keys.empty() ? "the object is empty" : suggestion(key, keys));
    }
    if (!found->is_string()) refuse(cat(at, '.', key, " is ", kind_of(*found), ", not a text"), "");
    return found->get<std::string>();
  }

  int weight(const Json& item, const std::string& at) const {
    const auto found = item.find("weight");
    if (found == item.end()) return 1;
    if (!found->is_number() || (*found != 0 && *found != 1))
      refuse(cat(at, ".weight is ", found->dump()), "0 or 1 is expected");
    return *found == 0 ? 0 : 1;
  }

  std::string_view line_;
  const std::string& where_;
};

}  // namespace

ChatStyle chat_style_of(std::string_view line, const std::string& where) {
  const LineParser parser(line, where);
  const Json json = parser.object();
  const bool openai = json.contains(names_of(ChatStyle::kOpenAi).list),
             sharegpt = json.contains(names_of(ChatStyle::kShareGpt).list);
  if (openai && sharegpt)
    parser.refuse("both \"messages\" and \"conversations\"", "keep one of them");
  if (openai) return ChatStyle::kOpenAi;
  if (sharegpt) return ChatStyle::kShareGpt;
  parser.refuse("neither \"messages\" nor \"conversations\"", LineParser::kExpected);
}

std::vector<ChatMessage> parse_chat(std::string_view line,
                                    ChatStyle style,
                                    const std::string& where) {
  const LineParser parser(line, where);
  const StyleNames& names = names_of(style);
  const Json json = parser.object();
  const auto list = json.find(names.list);
  if (list == json.end()) {
    parser.refuse(cat("no \"", names.list, '"'),
                  cat("the first chat of the file has it, and all must be alike"));
  }
  if (!list->is_array())
    parser.refuse(cat('"', names.list, "\" is ", LineParser::kind_of(*list), ", not an array"), "");
  std::vector<ChatMessage> messages;
  for (const Json& item : *list) messages.push_back(parser.message(item, messages.size(), names));
  const auto is_answer = [](const ChatMessage& m) { return m.role == "assistant"; };
  const auto is_learnt = [&](const ChatMessage& m) { return is_answer(m) && m.is_learnt; };
  if (std::ranges::none_of(messages, is_answer)) {
    parser.refuse(cat("no turn of the assistant among ", messages.size()),
                  cat("expected one with \"", names.role, "\": \"", names.roles[2], '"'));
  }
  if (std::ranges::none_of(messages, is_learnt))
    parser.refuse("every turn of the assistant has weight 0", "remove the chat");
  return messages;
}

}  // namespace kvsmith
