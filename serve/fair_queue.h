#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <list>
#include <string>
#include <utility>

namespace kvsmith {

/// What waits, in lines of one client each. The lines take turns, one item at a time; within a line
/// it is first come, first served. So a client with many items delays another by one at most. Not
/// thread-safe.
template <class Item>
class FairQueue {
 public:
  bool empty() const { return lines_.empty(); }
  size_t size() const {
    size_t sum = 0;
    for (const Line& line : lines_) sum += count(line);
    return sum;
  }
  size_t size_of(const std::string& client) const {
    const auto line = std::ranges::find(lines_, client, &Line::client);
    return line == lines_.end() ? 0 : line->items.size();
  }
  void push(const std::string& client, Item item) {
    auto line = std::ranges::find(lines_, client, &Line::client);
    if (line == lines_.end()) line = lines_.insert(line, {client, {}});
    line->items.push_back(std::move(item));
  }
  /// Whose turn it is, until it is taken: who comes later does not change that. Not of an empty
  /// queue, as take().
  const Item& front() const { return lines_.front().items.front(); }
  Item take() {
    auto line = lines_.begin();
    Item out = std::move(line->items.front());
    line->items.pop_front();
    lines_.splice(lines_.end(), lines_, line);
    if (line->items.empty()) lines_.erase(line);
    return out;
  }
  /// The longest line, and its newest item. Not of an empty queue.
  size_t longest() const { return count(*std::ranges::max_element(lines_, {}, count)); }
  Item take_newest_of_longest() {
    const auto line = std::ranges::max_element(lines_, {}, count);
    Item out = std::move(line->items.back());
    line->items.pop_back();
    if (line->items.empty()) lines_.erase(line);
    return out;
  }
  /// Removes the items for which `unwanted` is true, which it is asked once of each.
  template <class Predicate>
  void erase_if(const Predicate& unwanted) {
    for (Line& line : lines_) std::erase_if(line.items, unwanted);
    std::erase_if(lines_, [](const Line& line) { return line.items.empty(); });
  }

 private:
  struct Line {
    std::string client;
    std::deque<Item> items;  ///< never empty
  };
  static size_t count(const Line& line) { return line.items.size(); }

  std::list<Line> lines_;  ///< the next turn first
};

}  // namespace kvsmith
