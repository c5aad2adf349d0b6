#include "data/byte_bpe.h"

#include <algorithm>
#include <bit>

namespace kvsmith {
namespace {

constexpr size_t kShortWord = 48;

uint64_t hash_of(int32_t left, int32_t right) {
  const uint64_t key = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  return (key ^ key >> 29) * 0x9E3779B97F4A7C15;
}

}  // namespace

ByteBpe::ByteBpe(const std::array<int32_t, 256>& byte_ids,
                 std::span<const Merge> merges,
                 Words words)
    : byte_ids_(byte_ids), words_(std::move(words)) {
  const size_t size = std::bit_ceil(std::max<size_t>(2 * merges.size(), 2));
  shift_ = 64 - std::countr_zero(size);
  slots_.resize(size);
  for (uint32_t rank = 0; const auto& [left, right, result] : merges) {
    size_t at = hash_of(left, right) >> shift_;
    while (slots_[at].left >= 0) at = (at + 1) & (size - 1);
    slots_[at] = {left, right, result, rank++};
  }
}

const ByteBpe::Slot& ByteBpe::find(int32_t left, int32_t right) const {
  size_t at = hash_of(left, right) >> shift_;
  while (slots_[at].left >= 0 && (slots_[at].left != left || slots_[at].right != right))
    at = (at + 1) & (slots_.size() - 1);
  return slots_[at];
}

void ByteBpe::encode(std::string_view word, Workspace& work, std::vector<int32_t>& ids) const {
  if (!words_.empty()) {
    if (const auto known = words_.find(word); known != words_.end()) {
      ids.push_back(known->second);
      return;
    }
  }
  word.size() <= kShortWord ? encode_short(word, work, ids) : encode_long(word, work, ids);
}

void ByteBpe::encode_short(std::string_view word,
                           Workspace& work,
                           std::vector<int32_t>& ids) const {
  auto& parts = work.ids_;
  auto& ranks = work.ranks_;  // of each part with the next
  parts.clear();
  for (const char c : word)
    if (const int32_t id = byte_ids_[static_cast<unsigned char>(c)]; id >= 0) parts.push_back(id);
  if (parts.empty()) return;
  const auto rank_at = [&](size_t i) { return find(parts[i], parts[i + 1]).rank; };
  ranks.resize(parts.size() - 1);
  for (size_t i = 0; i < ranks.size(); ++i) ranks[i] = rank_at(i);
  while (!ranks.empty()) {
    const auto best = std::ranges::min_element(ranks);
    if (*best == kNone) break;
    const auto at = static_cast<size_t>(best - ranks.begin());
    parts[at] = find(parts[at], parts[at + 1]).result;
    parts.erase(parts.begin() + static_cast<ptrdiff_t>(at) + 1);
    ranks.erase(best);
    if (at < ranks.size()) ranks[at] = rank_at(at);
    if (at > 0) ranks[at - 1] = rank_at(at - 1);
  }
  ids.insert(ids.end(), parts.begin(), parts.end());
}

void ByteBpe::encode_long(std::string_view word, Workspace& work, std::vector<int32_t>& ids) const {
  auto& symbols = work.symbols_;
  auto& heap = work.heap_;
  symbols.clear();
  heap.clear();
  for (const char c : word) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    const auto count = static_cast<int32_t>(symbols.size());
    if (id >= 0) symbols.push_back({id, count - 1, count + 1});
  }
  if (symbols.empty()) return;
  symbols.back().after = -1;

  const auto is_later = [](const Workspace::Candidate& a, const Workspace::Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.place > b.place;
  };
  const auto add = [&](int32_t place) {
    const auto& symbol = symbols[place];
    if (symbol.after < 0) return;
    const Slot& found = find(symbol.id, symbols[symbol.after].id);
    if (found.rank == kNone) return;
    heap.push_back({found.rank, place, found.left, found.right, found.result});
    std::ranges::push_heap(heap, is_later);
  };
  for (int32_t place = 0; place < std::ssize(symbols); ++place) add(place);
  while (!heap.empty()) {
    std::ranges::pop_heap(heap, is_later);
    const auto best = heap.back();
    heap.pop_back();
    auto& left = symbols[best.place];
    // Either side may have been merged since; what is gone has the id -1.
    if (left.id != best.left || left.after < 0 || symbols[left.after].id != best.right) continue;
    auto& right = symbols[left.after];
    left.id = best.result;
    left.after = right.after;
    right.id = -1;
    if (left.after >= 0) symbols[left.after].before = best.place;
    add(best.place);
    if (left.before >= 0) add(left.before);
  }
  for (const auto& symbol : symbols)
    if (symbol.id >= 0) ids.push_back(symbol.id);
}

}  // namespace kvsmith
