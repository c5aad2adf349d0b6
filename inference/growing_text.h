#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace kvsmith {

/// The text of a sequence while it grows token by token. Holds raw bytes, for a token may end
/// inside a character, and hands on only what can no longer change.
class GrowingText {
 public:
  /// `stops`: texts that end it, none of them empty.
  explicit GrowingText(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  /// Takes in the bytes of one token. True when a stop text has appeared: it and what follows it
  /// are cut off.
  bool append(std::string_view bytes);
  /// What has become certain since the last call: whole characters that do not begin a stop text;
  /// with `is_over` all that is left. UTF-8: what the model left incomplete becomes U+FFFD.
  std::string take_fresh(bool is_over);
  /// All of it, UTF-8.
  std::string text() const;

 private:
  /// Bytes at the end that may be the beginning of a character, or of a stop text.
  size_t uncertain() const;

  std::vector<std::string> stops_;
  std::string bytes_;
  size_t taken_ = 0;
};

}  // namespace kvsmith
