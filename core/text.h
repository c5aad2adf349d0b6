#pragma once

#include <cstdint>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace kvsmith {

/// The arguments one after the other, as `operator<<` writes them.
template <class... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return std::move(out).str();
}

/// "a, b, c".
std::string join(const std::vector<std::string>& parts, std::string_view separator = ", ");

/// Text from a file made safe for a terminal: control bytes as \xNN, at most 2,000 bytes.
std::string printable(std::string_view text);

/// Text from a file in quotes, short enough for a message.
std::string in_quotes(std::string_view text);
/// "[2, 3]".
std::string shape_text(const std::vector<int64_t>& shape);

/// "1.50 GiB", "23.0 KiB", "17 B".
std::string human_bytes(double bytes);
/// "12.6M", "1.1B", "950": counts of parameters or tokens.
std::string human_count(double count);
/// "59.7 GFLOP".
std::string human_flop(double operations);
/// "1:02:03" or "2:03".
std::string human_seconds(double seconds);

/// The shortest candidate that begins with `wanted`; else the one with the smallest edit distance,
/// of at most 3 and a third of `wanted`; "" when there is none.
std::string nearest(std::string_view wanted, const std::vector<std::string>& candidates);
/// "did you mean "x"?" when something is close, else "valid: a, b, c".
std::string suggestion(std::string_view wanted, const std::vector<std::string>& candidates);

}  // namespace kvsmith
