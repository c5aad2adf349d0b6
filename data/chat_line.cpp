#include "data/chat_line.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/text.h"
#include "data/json_field.h"
#include "data/utf8.h"

namespace kvsmith {
namespace {

constexpr std::array kRoles = {"system", "user", "assistant"};

std::string kind_of(const nlohmann::json& json) {
  if (json.is_null()) return "null";
  if (json.is_array() || json.is_object()) return cat("an ", json.type_name());
  return cat("a ", json.type_name());
}

}  // namespace

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n\v\f") == text.npos; }

ChatLine::ChatLine(std::string_view line, std::string where, std::string expected)
    : where_(std::move(where)), expected_(std::move(expected)) {
  if (const size_t bad = find_invalid_utf8(line); bad < line.size())
    refuse(cat("invalid UTF-8 at byte ", bad, " of the line"), "convert the file to UTF-8");
  try {
    object_ = Json::parse(line, unique_keys());
  } catch (const Json::exception& error) {
    refuse(cat("malformed JSON (", error.what(), ")"), expected_);
  }
  if (!object_.is_object()) refuse(cat("the line is ", kind_of(object_)), expected_);
}

std::vector<ChatMessage> ChatLine::messages(const std::string& key,
                                            const MessageNames& names) const {
  const auto list = object_.find(key);
  if (list == object_.end()) refuse(cat("no \"", key, '"'), expected_);
  if (!list->is_array()) refuse(cat('"', key, "\" is ", kind_of(*list), ", not an array"), "");
  std::vector<ChatMessage> messages;
  for (const Json& item : *list) {
    const std::string at = cat(key, '[', messages.size(), ']');
    messages.push_back(message(item, at, names));
    if (messages.back().role == "system" && messages.size() > 1) {
      refuse(cat(at, " is a system message, but not the first of the chat"),
             "a chat has at most one, at its beginning");
    }
  }
  return messages;
}

std::string ChatLine::text(const std::string& key) const { return text_of(object_, "", key); }

void ChatLine::refuse_kind(const std::string& what) const {
  const std::string otherwise =
      has("text") ? "texts are built without --chats and --preferences" : expected_;
  refuse(what, way_of_building([&](const std::string& key) { return has(key); }, otherwise));
}

void ChatLine::refuse(const std::string& what, const std::string& remedy) const {
  throw Error(ExitCode::kBadData, {.what = what, .where = where_, .remedy = remedy});
}

ChatMessage ChatLine::message(const Json& item,
                              const std::string& at,
                              const MessageNames& names) const {
  if (!item.is_object()) refuse(cat(at, " is ", kind_of(item), ", not an object"), "");
  const std::string role = text_of(item, at, names.role);
  const auto known = std::ranges::find(names.roles, role);
  if (known == names.roles.end()) {
    refuse(cat(at, '.', names.role, " is ", in_quotes(role)),
           suggestion(role, {names.roles.begin(), names.roles.end()}));
  }
  ChatMessage out{.role = kRoles[static_cast<size_t>(known - names.roles.begin())],
                  .content = text_of(item, at, names.content)};
  if (out.role != "assistant") return out;
  if (is_blank(out.content))
    refuse(cat(at, " is an empty turn of the assistant"), "remove it or the chat");
  out.is_learnt = weight_of(item, at) != 0;
  return out;
}

std::string ChatLine::text_of(const Json& item,
                              const std::string& at,
                              const std::string& key) const {
  const std::string place = at.empty() ? cat('"', key, '"') : cat(at, '.', key);
  const auto found = item.find(key);
  if (found == item.end()) {
    if (at.empty()) refuse(cat("no ", place), expected_);
    std::vector<std::string> keys;
    for (const auto& [name, value] : item.items()) keys.push_back(name);
    refuse(cat("no \"", key, "\" in ", at),
           keys.empty() ? "the object is empty" : suggestion(key, keys));
  }
  if (!found->is_string()) refuse(cat(place, " is ", kind_of(*found), ", not a text"), "");
  auto text = found->get<std::string>();
  if (const size_t nul = text.find('\0'); nul != text.npos)
    refuse(cat("a NUL byte at byte ", nul, " of ", place), "");
  return text;
}

int ChatLine::weight_of(const Json& item, const std::string& at) const {
  const auto found = item.find("weight");
  if (found == item.end()) return 1;
  if (!found->is_number() || (*found != 0 && *found != 1))
    refuse(cat(at, ".weight is ", found->is_number() ? found->dump() : kind_of(*found)),
           "0 or 1 is expected");
  return *found == 0 ? 0 : 1;
}

nlohmann::json::parser_callback_t ChatLine::unique_keys() const {
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

}  // namespace kvsmith
