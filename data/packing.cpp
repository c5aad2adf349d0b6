#include "data/packing.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/text.h"

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

std::vector<Packing> packings_of(const std::vector<WeightedSplit>& splits, int64_t length) {
  std::vector<Packing> out;
  for (const WeightedSplit& s : splits) {
    out.emplace_back(*s.split, length);
    if (out.back().sequences() > 0) continue;
    throw Error(ExitCode::kBadData,
                {.what = cat("of ", s.split->documents(), " documents none has two tokens"),
                 .where = "batches",
                 .remedy = "add text"});
  }
  return out;
}

std::vector<uint64_t> sequences_of(const std::vector<Packing>& packings) {
  std::vector<uint64_t> out;
  for (const Packing& packing : packings) out.push_back(packing.sequences());
  return out;
}

/// A sequence with `pieces`, then padding.
void append(const CorpusSplit& split,
            std::span<const Piece> pieces,
            const BatchOptions& options,
            Batch& batch) {
  int64_t filled = 0;
  int32_t segment = 0;
  const auto append_token = [&](int64_t token, int64_t target, int64_t position) {
    batch.tokens.push_back(token);
    batch.targets.push_back(target);
    batch.positions.push_back(position);
    batch.segments.push_back(segment);
    batch.target_count += target >= 0;
  };
  const auto begin_segment = [&] {
    if (!options.document_mask || filled == 0) return;
    ++segment;
    batch.has_borders = true;
  };
  for (const Piece& piece : pieces) {
    std::vector<int32_t> ids(static_cast<size_t>(piece.length) + 1);
    std::vector<uint8_t> is_learnt(ids.size());
    split.read(piece.first, ids);
    split.read_learnt(piece.first, is_learnt);
    begin_segment();
    for (int64_t i = 0; i < piece.length; ++i) {
      const auto at = static_cast<size_t>(i);
      append_token(ids[at], is_learnt[at + 1] != 0 ? ids[at + 1] : -1,
                   options.document_mask ? i : filled + i);
    }
    filled += piece.length;
  }
  batch.token_count += filled;
  if (filled < options.length) begin_segment();
  for (int64_t i = 0; filled < options.length; ++i, ++filled)
    append_token(0, -1, options.document_mask ? i : filled);
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

PackedSource::PackedSource(std::vector<WeightedSplit> splits, const BatchOptions& options)
    : splits_(std::move(splits)),
      options_(options),
      packings_(packings_of(splits_, options.length)),
      mixture_(mixture_of(splits_, sequences_of(packings_), options)) {}

Batch PackedSource::make(uint64_t first, int64_t sequences) const {
  Batch batch{.sequences = sequences, .length = options_.length};
  for (uint64_t i = first; i < first + static_cast<uint64_t>(sequences); ++i) {
    const auto [split, sequence] = mixture_.at(i);
    append(*splits_[split].split, packings_[split].sequence(sequence), options_, batch);
  }
  return batch;
}

uint64_t PackedSource::sequences_with(int64_t tokens) const {
  const uint64_t all = sequences_per_epoch();
  if (tokens == 0) return all;
  const double wanted = std::ceil(static_cast<double>(tokens) / tokens_per_sequence());
  return std::min(all, static_cast<uint64_t>(wanted));
}

std::string PackedSource::remark() const {
  const double share = 1 - tokens_per_sequence() / static_cast<double>(options_.length);
  return cat("packed into ", sequences_per_epoch(), " sequences, of which ",
             std::round(1000 * share) / 10, " % is padding");
}

double PackedSource::tokens_per_sequence() const {
  double tokens = 0;
  for (const Packing& packing : packings_) tokens += static_cast<double>(packing.tokens());
  return tokens / static_cast<double>(sequences_per_epoch());
}

}  // namespace kvsmith
