#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace kvsmith {

/// Throws Error (64) about the field `name` of a request, or the element of it.
[[noreturn]] void refuse_field(const std::string& what,
                               const std::string& name,
                               const std::string& remedy = "");

/// The body of a request. Throws nlohmann's exceptions for what is no JSON, Error (64) for JSON
/// that nests deeper than any request: copying it would exhaust the stack.
nlohmann::json parsed_request(const std::string& body);

/// Reads a JSON object, holding each field to its type. A field that is null counts as left out.
/// Every function throws Error (64) that names the field.
class RequestFields {
 public:
  /// Throws for what is no object, and for a field that is not among `known`.
  RequestFields(const nlohmann::json& body, const std::vector<std::string>& known);

  bool has(const std::string& name) const;
  /// Only of a field that is there.
  const nlohmann::json& operator[](const std::string& name) const { return body_.at(name); }

  bool flag(const std::string& name, bool otherwise) const;
  int64_t integer(const std::string& name, int64_t otherwise, int64_t least, int64_t most) const;
  double number(const std::string& name, double otherwise, double least, double most) const;
  std::string text(const std::string& name, const std::string& otherwise) const;
  /// A text, or a list of at most `most` texts; none of them empty.
  std::vector<std::string> texts(const std::string& name, size_t most) const;
  /// For what is not supported: throws unless the field is left out or `neutral`.
  void expect_neutral(const std::string& name, const nlohmann::json& neutral) const;

 private:
  const nlohmann::json& body_;
};

}  // namespace kvsmith
