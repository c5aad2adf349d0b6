#include "data/pairs.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

uint64_t length_of(const CorpusSplit& split, uint64_t document) {
  return split.offset(document + 1) - split.offset(document);
}

/// The tokens of a document, each with the one that follows as its target.
struct Sequence {
  std::vector<int64_t> tokens, targets;

  Sequence(const CorpusSplit& split, uint64_t document) {
    std::vector<int32_t> ids(length_of(split, document));
    std::vector<uint8_t> learnt(ids.size());
    split.read(split.offset(document), ids);
    split.read_learnt(split.offset(document), learnt);
    size_t end = ids.size();
    while (end > 2 && learnt[end - 1] == 0) --end;  // nothing that is learnt sees the rest
    tokens.assign(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(end) - 1);
    for (size_t i = 1; i < end; ++i) targets.push_back(learnt[i] != 0 ? ids[i] : -1);
  }
};

void append(Sequence sequence, Batch& batch) {
  batch.token_count += static_cast<int64_t>(sequence.tokens.size());
  const auto length = static_cast<size_t>(batch.length);
  sequence.tokens.resize(length, 0);
  sequence.targets.resize(length, -1);
  batch.target_count +=
      std::ranges::count_if(sequence.targets, [](int64_t target) { return target >= 0; });
  batch.tokens.insert(batch.tokens.end(), sequence.tokens.begin(), sequence.tokens.end());
  batch.targets.insert(batch.targets.end(), sequence.targets.begin(), sequence.targets.end());
  for (int64_t at = 0; at < batch.length; ++at) batch.positions.push_back(at);
  batch.segments.resize(batch.tokens.size(), 0);
}

}  // namespace

PairSource::PairSource(std::vector<WeightedSplit> splits, const BatchOptions& options)
    : splits_(std::move(splits)),
      length_(static_cast<uint64_t>(options.length)),
      mixture_(mixture_of(splits_, find_fitting(), options)) {}

std::vector<uint64_t> PairSource::find_fitting() {
  std::vector<uint64_t> items;
  for (const auto& [split, _] : splits_) {
    std::vector<uint64_t>& fitting = fitting_.emplace_back();
    const uint64_t pairs = split->documents() / 2;
    for (uint64_t pair = 0; pair < pairs; ++pair) {
      const auto [shorter, longer] =
          std::minmax({length_of(*split, 2 * pair), length_of(*split, 2 * pair + 1)});
      // one token alone has nothing to follow it
      if (shorter >= 2 && longer <= length_ + 1) fitting.push_back(pair);
    }
    if (fitting.empty()) {
      throw Error(ExitCode::kBadData,
                  {cat("none of ", pairs, " pairs fits into sequences of ", length_, " tokens"),
                   "batches", "raise train.sequence_length"});
    }
    pairs_ += pairs;
    items.push_back(fitting.size());
  }
  return items;
}

Batch PairSource::make(uint64_t first, int64_t sequences) const {
  std::vector<Sequence> all;
  Batch batch;
  batch.sequences = sequences;
  for (uint64_t pair = first / 2; pair < (first + static_cast<uint64_t>(sequences)) / 2; ++pair) {
    const auto [source, item] = mixture_.at(pair);
    for (const uint64_t side : {0, 1}) {
      all.emplace_back(*splits_[source].split, 2 * fitting_[source][item] + side);
      batch.length = std::max(batch.length, static_cast<int64_t>(all.back().tokens.size()));
    }
  }
  for (Sequence& sequence : all) append(std::move(sequence), batch);
  return batch;
}

uint64_t PairSource::sequences_with(int64_t tokens) const {
  const uint64_t all = sequences_per_epoch();
  if (tokens == 0) return all;
  uint64_t sequences = 0;
  for (uint64_t held = 0; sequences < all && held < static_cast<uint64_t>(tokens); sequences += 2) {
    const auto [source, item] = mixture_.at(sequences / 2);
    const uint64_t document = 2 * fitting_[source][item];
    held += length_of(*splits_[source].split, document) - 1;
    held += length_of(*splits_[source].split, document + 1) - 1;
  }
  return sequences;
}

std::string PairSource::remark() const {
  const uint64_t count = pairs_ - mixture_.items();
  if (count == 0) return "";
  return cat(count, " of ", pairs_, " pairs are left out: longer than ", length_, " tokens");
}

}  // namespace kvsmith
