#pragma once

#include <bitset>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace kvsmith {

/// Tokens that are looked for in a text as they stand, before anything else is done to it.
class AddedTokens {
 public:
  struct Match {
    size_t at = 0;  ///< text.size() when there is none
    size_t bytes = 0;
    int32_t id = -1;
  };

  /// Not empty, not there yet.
  void add(const std::string& content, int32_t id);

  /// The leftmost token in `text`, the longest of those that begin there.
  Match find(std::string_view text) const;
  /// Whether a token stands in `text` with parts of it on both sides of `border`.
  bool any_across(std::string_view text, size_t border) const;

 private:
  Match longest_at(std::string_view text, size_t at) const;

  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> ids_;  ///< by content
  std::vector<size_t> lengths_;  ///< that occur, the longest first
  std::bitset<256> first_bytes_;
};

}  // namespace kvsmith
