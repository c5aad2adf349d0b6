#include "inference/growing_text.h"

#include <algorithm>

#include "data/utf8.h"

namespace kvsmith {
namespace {

std::string readable(std::string_view bytes) {
  uint64_t replaced = 0;
  return replace_invalid_utf8(bytes, replaced);
}

}  // namespace

bool GrowingText::append(std::string_view bytes) {
  const size_t before = bytes_.size();
  bytes_ += bytes;
  size_t end = std::string::npos;
  for (const auto& stop : stops_)  // one that ended earlier would have been found then
    end = std::min(end, bytes_.find(stop, before - std::min(before, stop.size() - 1)));
  if (end == std::string::npos) return false;
  bytes_.resize(end);
  return true;
}

std::string GrowingText::take_fresh(bool is_over) {
  const size_t held = is_over ? 0 : uncertain();
  if (bytes_.size() <= taken_ + held) return {};
  const size_t fresh = bytes_.size() - held - taken_;
  taken_ += fresh;
  return readable(std::string_view(bytes_).substr(taken_ - fresh, fresh));
}

std::string GrowingText::text() const { return readable(bytes_); }

size_t GrowingText::uncertain() const {
  size_t held = 0;
  for (size_t back = 1; back <= std::min<size_t>(4, bytes_.size()); ++back) {
    const auto byte = static_cast<unsigned char>(bytes_[bytes_.size() - back]);
    if ((byte & 0xc0) == 0x80) continue;
    const size_t length = byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
    if (length > back) held = back;
    break;
  }
  for (const auto& stop : stops_) {
    for (size_t n = std::min(stop.size(), bytes_.size() + 1) - 1; n > held; --n) {
      if (bytes_.ends_with(std::string_view(stop).substr(0, n))) held = n;
    }
  }
  return held;
}

}  // namespace kvsmith
