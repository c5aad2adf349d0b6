#pragma once

#include <cstdint>
#include <string>

#include "inference/generate.h"
#include "inference/growing_text.h"

namespace kvsmith {

/// One text while it is continued token by token, until a token or a text ends it or
/// options.max_new_tokens are there.
class Continuation {
 public:
  /// Both outlive this object.
  Continuation(const LoadedModel& model, const GenerateOptions& options)
      : model_(model), options_(options), text_(options.stop) {}

  /// Takes in the next token. Returns what has become certain of the text: whole UTF-8 characters.
  std::string take(int64_t token);
  /// Ends it for a reason of the caller's; returns what was left.
  std::string end(const std::string& reason);
  bool is_over() const { return !result_.finish.empty(); }
  /// Once it is over.
  Generation result() const;

 private:
  const LoadedModel& model_;
  const GenerateOptions& options_;
  Generation result_;
  GrowingText text_;
};

}  // namespace kvsmith
