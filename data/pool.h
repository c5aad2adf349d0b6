#pragma once

#include <memory>
#include <mutex>
#include <vector>

namespace kvsmith {

/// Objects handed out to one caller at a time.
template <class T>
class Pool {
 public:
  std::unique_ptr<T> take() {
    const std::scoped_lock lock(mutex_);
    if (free_.empty()) return std::make_unique<T>();
    auto taken = std::move(free_.back());
    free_.pop_back();
    return taken;
  }
  void give_back(std::unique_ptr<T> object) {
    const std::scoped_lock lock(mutex_);
    free_.push_back(std::move(object));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<T>> free_;
};

}  // namespace kvsmith
