#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "data/chat_template.h"

namespace kvsmith {

/// The keys of a message, and how it names who speaks.
struct MessageNames {
  std::string role, content;
  std::array<std::string, 3> roles;  ///< of system, user and assistant
};

/// Whether a text is nothing but white space.
bool is_blank(std::string_view text);

/// One line of JSON in which somebody speaks. Every fault is an Error (65) with its place.
class ChatLine {
 public:
  /// `where`: "<file>:<line>". Throws for a line that is not UTF-8, not one JSON object, or has a
  /// key twice; `expected` says what would be right.
  ChatLine(std::string_view line, std::string where, std::string expected);

  bool has(const std::string& key) const { return object_.contains(key); }
  bool has_array(const std::string& key) const { return has(key) && object_[key].is_array(); }
  /// The messages of the list under `key`. Throws where it is none or not there, for an unknown
  /// role, a system message but at the beginning, an assistant's message of nothing but white
  /// space, a NUL byte.
  std::vector<ChatMessage> messages(const std::string& key, const MessageNames& names) const;
  /// The text under `key`. Throws where it is none or not there, and for a NUL byte.
  std::string text(const std::string& key) const;

  /// A line that may be meant for another way of building a corpus.
  [[noreturn]] void refuse_kind(const std::string& what) const;
  [[noreturn]] void refuse(const std::string& what, const std::string& remedy) const;

 private:
  using Json = nlohmann::json;

  ChatMessage message(const Json& item, const std::string& at, const MessageNames& names) const;
  /// The text under `key` of `item`, which stands at `at`; empty: the line itself.
  std::string text_of(const Json& item, const std::string& at, const std::string& key) const;
  int weight_of(const Json& item, const std::string& at) const;
  /// Of two values under one key the parser would keep the last.
  Json::parser_callback_t unique_keys() const;

  std::string where_, expected_;
  Json object_;
};

}  // namespace kvsmith
