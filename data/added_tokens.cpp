#include "data/added_tokens.h"

#include <algorithm>
#include <functional>

namespace kvsmith {

void AddedTokens::add(const std::string& content, int32_t id) {
  ids_.emplace(content, id);
  first_bytes_.set(static_cast<unsigned char>(content[0]));
  const auto place = std::ranges::lower_bound(lengths_, content.size(), std::greater{});
  if (place == lengths_.end() || *place != content.size()) lengths_.insert(place, content.size());
}

AddedTokens::Match AddedTokens::longest_at(std::string_view text, size_t at) const {
  if (!first_bytes_[static_cast<unsigned char>(text[at])]) return {text.size(), 0, -1};
  for (const size_t bytes : lengths_) {
    if (bytes > text.size() - at) continue;
    const auto found = ids_.find(text.substr(at, bytes));
    if (found != ids_.end()) return {at, bytes, found->second};
  }
  return {text.size(), 0, -1};
}

AddedTokens::Match AddedTokens::find(std::string_view text) const {
  if (ids_.empty()) return {text.size(), 0, -1};
  for (size_t at = 0; at < text.size(); ++at)
    if (const Match found = longest_at(text, at); found.bytes > 0) return found;
  return {text.size(), 0, -1};
}

bool AddedTokens::any_across(std::string_view text, size_t border) const {
  if (ids_.empty()) return false;
  const size_t longest = lengths_.front();
  for (size_t at = border < longest ? 0 : border - longest + 1; at < border; ++at)
    if (longest_at(text, at).bytes > border - at) return true;
  return false;
}

}  // namespace kvsmith
