#include "data/json_field.h"

#include <algorithm>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

using Json = nlohmann::json;

/// Listens to the parser and remembers one string.
class FieldListener : public nlohmann::json_sax<Json> {
 public:
  FieldListener(const std::string& field, const std::string& where)
      : field_(field), where_(where) {}

  std::string take() {
    if (found_) return std::move(value_);
    const auto has = [&](const auto& key) { return std::ranges::find(keys_, key) != keys_.end(); };
    fail(cat("no field \"", field_, "\""),
         keys_.empty() ? "the object is empty" : way_of_building(has, suggestion(field_, keys_)));
  }

  bool null() override { return other("null"); }
  bool boolean(bool) override { return other("a boolean"); }
  bool number_integer(number_integer_t) override { return other("a number"); }
  bool number_unsigned(number_unsigned_t) override { return other("a number"); }
  bool number_float(number_float_t, const string_t&) override { return other("a number"); }
  bool binary(binary_t&) override { return other("binary data"); }
  bool string(string_t& value) override {
    if (depth_ == 0) return other("a string");
    if (at_field_) value_ = std::move(value);
    at_field_ = false;
    return true;
  }
  bool start_object(std::size_t) override {
    if (depth_ > 0) other("an object");
    return ++depth_;
  }
  bool key(string_t& name) override {
    if (depth_ != 1) return true;
    at_field_ = name == field_;
    if (at_field_ && found_) fail(cat("the field \"", field_, "\" is there twice"), "");
    found_ = found_ || at_field_;
    if (keys_.size() < 16) keys_.push_back(std::move(name));
    return true;
  }
  bool end_object() override { return depth_--, true; }
  bool start_array(std::size_t) override { return other("an array"), ++depth_; }
  bool end_array() override { return depth_--, true; }
  bool parse_error(std::size_t at,
                   const std::string&,
                   const nlohmann::detail::exception& error) override {
    fail(cat("malformed JSON at byte ", at, " of the line (", error.what(), ")"),
         "one JSON object a line is expected");
  }

 private:
  bool other(const std::string& what) {
    if (depth_ == 0) fail(cat("the line is ", what), "one JSON object a line is expected");
    if (at_field_) fail(cat("the field \"", field_, "\" is ", what, ", not a string"), "");
    return true;
  }
  [[noreturn]] void fail(const std::string& what, const std::string& remedy) const {
    throw Error(ExitCode::kBadData, {.what = what, .where = where_, .remedy = remedy});
  }

  const std::string& field_;
  const std::string& where_;
  size_t depth_ = 0;
  bool at_field_ = false, found_ = false;
  std::string value_;
  std::vector<std::string> keys_;
};

}  // namespace

std::string json_string_field(std::string_view line,
                              const std::string& field,
                              const std::string& where) {
  FieldListener listener(field, where);
  Json::sax_parse(line.begin(), line.end(), &listener);
  return listener.take();
}

std::string way_of_building(const std::function<bool(const std::string&)>& has,
                            std::string otherwise) {
  if (has("chosen")) return "pairs of answers are built with --preferences";
  if (has("messages") || has("conversations")) return "chats are built with --chats";
  return otherwise;
}

}  // namespace kvsmith
