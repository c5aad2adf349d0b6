#include "core/json_node.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {

using Json = nlohmann::json;

namespace {

/// Of objects and lists within each other, in text that need not be JSON.
int levels_of(std::string_view text) {
  int level = 0, deepest = 0;
  bool in_text = false;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '"') in_text = !in_text;
    if (in_text) {
      at += c == '\\';
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++level);
    } else if (c == '}' || c == ']') {
      --level;
    }
  }
  return deepest;
}

template <typename Document>
Document parse(std::string_view text, int most_levels, const std::string& where) {
  const auto damaged = [&](std::string what) {
    return Error(
        ExitCode::kBadData,
        {.what = std::move(what), .where = where, .remedy = "a truncated or damaged file?"});
  };
  // counted before: a callback at every value would cost as much as the parsing
  if (levels_of(text) > most_levels)
    throw damaged(cat("more than ", most_levels, " levels of JSON"));
  try {
    return Document::parse(text.begin(), text.end());
  } catch (const typename Document::parse_error& error) {
    throw damaged(cat("malformed JSON at byte ", error.byte));
  }
}

}  // namespace

JsonNode JsonNode::at(const std::string& key) const {
  const auto member = object().find(key);
  if (member == value_->end())
    throw Error(ExitCode::kBadData, {.what = cat("no \"", key, "\""),
                                     .where = place(),
                                     .remedy = "a truncated or damaged file?"});
  return {*member, where_, path_.empty() ? key : cat(path_, ".", key)};
}

std::optional<JsonNode> JsonNode::find(const std::string& key) const {
  const auto member = object().find(key);
  if (member == value_->end() || member->is_null()) return std::nullopt;
  return at(key);
}

JsonNode JsonNode::operator[](size_t index) const {
  return {value_->at(index), where_, path_ + "[" + std::to_string(index) + "]"};
}

const std::string& JsonNode::text() const {
  if (!value_->is_string()) damaged("a text");
  return value_->get_ref<const std::string&>();
}

bool JsonNode::boolean() const {
  if (!value_->is_boolean()) damaged("true or false");
  return value_->get<bool>();
}

int64_t JsonNode::integer(int64_t least, int64_t most) const {
  const bool fits = value_->is_number_unsigned()
                        ? value_->get<uint64_t>() <= static_cast<uint64_t>(most)
                        : value_->is_number_integer() && value_->get<int64_t>() <= most;
  if (!fits || value_->get<int64_t>() < least)
    damaged(cat("a whole number from ", least, " to ", most));
  return value_->get<int64_t>();
}

double JsonNode::number(double least, double most) const {
  const double number = value_->is_number() ? value_->get<double>() : NAN;
  if (!(number >= least && number <= most)) damaged(cat("a number from ", least, " to ", most));
  return number;
}

size_t JsonNode::size() const {
  if (!value_->is_array()) damaged("a list");
  return value_->size();
}

const Json& JsonNode::object() const {
  if (!value_->is_object()) damaged("an object");
  return *value_;
}

void JsonNode::expect_only(std::initializer_list<std::string_view> keys) const {
  for (const auto& [key, value] : object().items())
    if (std::ranges::find(keys, key) == keys.end())
      at(key).unsupported(cat("only ", join({keys.begin(), keys.end()}), " are supported here"));
}

void JsonNode::expect_member(const std::string& key, const Json& value) const {
  const auto member = find(key);
  if (member && *member->value_ != value)
    member->unsupported(cat("only ", value.dump(), " is supported"));
}

std::string JsonNode::place() const { return path_.empty() ? where_ : cat(where_, ": ", path_); }

void JsonNode::damaged(const std::string& expected) const {
  throw Error(
      ExitCode::kBadData,
      {.what = cat("found ", found()), .where = place(), .remedy = cat("expected ", expected)});
}

void JsonNode::unsupported(const std::string& expected) const {
  throw Error(ExitCode::kConfig,
              {.what = cat("found ", found()), .where = place(), .remedy = expected});
}

std::string JsonNode::found() const {
  if (value_->is_structured() && value_->size() > 8)
    return cat(value_->is_array() ? "a list" : "an object", " of ", value_->size());
  return shortened(value_->dump(-1, ' ', true));
}

std::string shortened(const std::string& json) {
  constexpr size_t kLongest = 80;
  return json.size() > kLongest ? json.substr(0, kLongest) + "..." : json;
}

void throw_damaged_json(const Json::exception& error, const std::string& where) {
  std::string what = error.what();  // "[json.exception.type_error.302] type must be ..."
  if (const auto tag = what.find("] "); what.starts_with('[') && tag != what.npos)
    what.erase(0, tag + 2);
  throw Error(ExitCode::kBadData,
              {.what = what, .where = where, .remedy = "a truncated or damaged file?"});
}

Json parse_json(std::string_view text, int most_levels, const std::string& where) {
  return parse<Json>(text, most_levels, where);
}

nlohmann::ordered_json parse_ordered_json(std::string_view text,
                                          int most_levels,
                                          const std::string& where) {
  return parse<nlohmann::ordered_json>(text, most_levels, where);
}

}  // namespace kvsmith
