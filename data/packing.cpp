#include "data/packing.h"

#include <algorithm>
#include <functional>
#include <set>

namespace kvsmith {
namespace {

std::vector<Piece> pieces_of(const CorpusSplit& split, int64_t length) {
  std::vector<Piece> out;
  for (uint64_t document = 0; document < split.documents(); ++document) {
    const uint64_t end = split.offset(document + 1);
    for (uint64_t first = split.offset(document); first + 1 < end;
         first += static_cast<uint64_t>(length)) {
      out.push_back({first, std::min(length, static_cast<int64_t>(end - 1 - first))});
    }
  }
  return out;
}

}  // namespace

Packing::Packing(const CorpusSplit& split, int64_t length) {
  auto pieces = pieces_of(split, length);
  std::ranges::stable_sort(pieces, std::greater{}, &Piece::length);
  std::vector<std::vector<Piece>> filled;
  // sequences with so much room left, and the rooms that some have
  std::vector<std::vector<size_t>> with_room(static_cast<size_t>(length) + 1);
  std::set<int64_t> rooms;
  for (const Piece& piece : pieces) {
    tokens_ += static_cast<uint64_t>(piece.length);
    const auto best = rooms.lower_bound(piece.length);
    int64_t room = length;
    size_t sequence = filled.size();
    if (best == rooms.end()) {
      filled.emplace_back();
    } else {
      room = *best;
      auto& candidates = with_room[static_cast<size_t>(room)];
      sequence = candidates.back();
      candidates.pop_back();
      if (candidates.empty()) rooms.erase(best);
    }
    filled[sequence].push_back(piece);
    room -= piece.length;
    if (room == 0) continue;
    with_room[static_cast<size_t>(room)].push_back(sequence);
    rooms.insert(room);
  }
  begins_.push_back(0);
  for (const auto& sequence : filled) {
    pieces_.insert(pieces_.end(), sequence.begin(), sequence.end());
    begins_.push_back(pieces_.size());
  }
}

}  // namespace kvsmith
