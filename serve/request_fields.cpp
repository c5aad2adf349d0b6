#include "serve/request_fields.h"

#include <algorithm>

#include "core/text.h"

namespace kvsmith {
namespace {

constexpr int kDeepest = 16;

[[noreturn]] void wrong_type(const nlohmann::json& value,
                             const std::string& name,
                             const std::string& expected) {
  refuse_field(cat("is of type ", value.type_name()), name, "give " + expected);
}

}  // namespace

void refuse_field(const std::string& what, const std::string& name, const std::string& remedy) {
  throw Error(ExitCode::kUsage, {what, name, remedy});
}

nlohmann::json parsed_request(const std::string& body) {
  return nlohmann::json::parse(body, [](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth > kDeepest) refuse_field(cat("nests deeper than ", kDeepest), "the request");
    return true;
  });
}

RequestFields::RequestFields(const nlohmann::json& body, const std::vector<std::string>& known)
    : body_(body) {
  if (!body.is_object()) refuse_field("is no JSON object", "the request");
  for (const auto& [name, value] : body.items())
    if (std::ranges::find(known, name) == known.end())
      refuse_field("is no field of this request", printable(name), suggestion(name, known));
}

bool RequestFields::has(const std::string& name) const {
  return body_.contains(name) && !body_.at(name).is_null();
}

bool RequestFields::flag(const std::string& name, bool otherwise) const {
  if (!has(name)) return otherwise;
  if (!body_[name].is_boolean()) wrong_type(body_[name], name, "true or false");
  return body_[name].get<bool>();
}

int64_t RequestFields::integer(const std::string& name,
                               int64_t otherwise,
                               int64_t least,
                               int64_t most) const {
  if (!has(name)) return otherwise;
  const auto& value = body_[name];
  if (!value.is_number_integer()) wrong_type(value, name, "an integer");
  const bool is_beyond = value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX;
  const int64_t number = is_beyond ? INT64_MAX : value.get<int64_t>();
  if (is_beyond || number < least || number > most)
    refuse_field(cat("is ", value.dump()), name, cat("give ", least, " to ", most));
  return number;
}

double RequestFields::number(const std::string& name,
                             double otherwise,
                             double least,
                             double most) const {
  if (!has(name)) return otherwise;
  const auto& value = body_[name];
  if (!value.is_number()) wrong_type(value, name, "a number");
  const auto number = value.get<double>();
  if (!(number >= least && number <= most))
    refuse_field(cat("is ", value.dump()), name, cat("give ", least, " to ", most));
  return number;
}

std::string RequestFields::text(const std::string& name, const std::string& otherwise) const {
  if (!has(name)) return otherwise;
  if (!body_[name].is_string()) wrong_type(body_[name], name, "a string");
  return body_[name].get<std::string>();
}

std::vector<std::string> RequestFields::texts(const std::string& name, size_t most) const {
  if (!has(name)) return {};
  const auto& value = body_[name];
  std::vector<std::string> out;
  if (value.is_string()) {
    out.push_back(value.get<std::string>());
  } else {
    if (!value.is_array()) wrong_type(value, name, "a string or a list of strings");
    for (const auto& one : value) {
      if (!one.is_string()) wrong_type(one, name, "strings in the list");
      out.push_back(one.get<std::string>());
    }
  }
  if (out.size() > most)
    refuse_field(cat("has ", out.size(), " texts"), name, cat("give at most ", most));
  if (std::ranges::count(out, "") > 0) refuse_field("has an empty text", name);
  return out;
}

void RequestFields::expect_neutral(const std::string& name, const nlohmann::json& neutral) const {
  if (!has(name) || body_[name] == neutral) return;
  refuse_field("is not supported", name, cat("leave it out, or give ", neutral.dump()));
}

}  // namespace kvsmith
