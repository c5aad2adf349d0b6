#include "data/batches.h"

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <numeric>
#include <ranges>
#include <span>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

constexpr uint64_t kCycle = 1024;  ///< sequences in which every split gets its exact share
constexpr size_t kReadAhead = 4;   ///< batches
constexpr uint64_t kMixtureRound = UINT64_MAX;

/// Slots of a cycle for each weight, by largest remainder; their sum is kCycle.
std::vector<uint64_t> share_cycle(const std::vector<WeightedSplit>& splits) {
  double total = 0;
  for (const WeightedSplit& s : splits) total += s.weight;
  std::vector<uint64_t> slots;
  std::vector<double> remainders;
  for (const WeightedSplit& s : splits) {
    const double exact = s.weight / total * kCycle;
    slots.push_back(static_cast<uint64_t>(exact));
    remainders.push_back(exact - std::floor(exact));
  }
  std::vector<size_t> order(splits.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater{}, [&](size_t i) { return remainders[i]; });
  const uint64_t left = kCycle - std::accumulate(slots.begin(), slots.end(), uint64_t{0});
  for (uint64_t i = 0; i < left; ++i) ++slots[order[i % order.size()]];
  return slots;
}

/// Which sequence of which split sequence p of the stream is: a pure function of p.
class Schedule {
 public:
  Schedule(std::vector<WeightedSplit> splits, const BatchOptions& options)
      : splits_(std::move(splits)), options_(options) {
    const auto refuse = [](ExitCode code, const std::string& what, const std::string& remedy) {
      throw Error(code, {.what = what, .where = "batches", .remedy = remedy});
    };
    if (splits_.empty()) refuse(ExitCode::kConfig, "no corpus to read", "name at least one");
    if (options.sequences < 1 || options.length < 1) {
      refuse(ExitCode::kConfig,
             cat("batches of ", options.sequences, " sequences of ", options.length, " tokens"),
             "both must be at least 1");
    }
    for (const WeightedSplit& s : splits_) {
      if (!std::isfinite(s.weight) || s.weight <= 0) {
        refuse(ExitCode::kConfig, cat("weight ", s.weight), "weights are positive numbers");
      }
      const auto length = static_cast<uint64_t>(options.length);
      if (options.packs) packings_.emplace_back(*s.split, options.length);
      windows_.push_back(options.packs            ? packings_.back().sequences()
                         : s.split->tokens() == 0 ? 0
                                                  : (s.split->tokens() - 1) / length);
      if (windows_.back() == 0) {
        refuse(ExitCode::kBadData,
               cat("a split of ", s.split->tokens(), " tokens is shorter than a sequence of ",
                   length, " tokens and its last target"),
               "add text or train on shorter sequences");
      }
    }
    slots_ = share_cycle(splits_);
    if (const auto none = std::ranges::find(slots_, 0u); none != slots_.end()) {
      refuse(ExitCode::kConfig,
             cat("weight ", splits_[none - slots_.begin()].weight, " is below 1/", kCycle,
                 " of their sum"),
             "raise it or leave the corpus out");
    }
    deal_cycle();
  }

  /// Appends sequence `position`.
  void append(uint64_t position, Batch& batch) const {
    const auto [index, rank] = cycle_[position % kCycle];
    const uint64_t draw = position / kCycle * slots_[index] + rank, windows = windows_[index];
    uint64_t window = draw % windows;
    if (options_.shuffle) {
      // Another order for each split, so that equally long ones do not run in step.
      window = permute(window, windows, options_.seed + index, draw / windows);
    }
    const CorpusSplit& split = *splits_[index].split;
    if (options_.packs) {
      append_pieces(split, packings_[index].sequence(window), options_, batch);
    } else {
      append_window(split, window * static_cast<uint64_t>(options_.length), options_, batch);
    }
  }

  uint64_t windows() const {
    return std::accumulate(windows_.begin(), windows_.end(), uint64_t{0});
  }

  double padding() const {
    if (!options_.packs) return 0;
    double tokens = 0;
    for (const Packing& packing : packings_) tokens += static_cast<double>(packing.tokens());
    return 1 - tokens / static_cast<double>(windows() * static_cast<uint64_t>(options_.length));
  }

 private:
  struct Turn {
    size_t split;
    uint64_t rank;  ///< turns of the same split before this one in the cycle
  };

  void deal_cycle() {
    std::vector<size_t> owners;
    for (size_t i = 0; i < slots_.size(); ++i) owners.insert(owners.end(), slots_[i], i);
    std::vector<uint64_t> dealt(slots_.size());
    for (uint64_t i = 0; i < kCycle; ++i) {
      const size_t owner = owners[permute(i, kCycle, options_.seed, kMixtureRound)];
      cycle_.push_back({.split = owner, .rank = dealt[owner]++});
    }
  }

  std::vector<WeightedSplit> splits_;
  BatchOptions options_;
  std::vector<Packing> packings_;          ///< of the splits, where they are packed
  std::vector<uint64_t> windows_, slots_;  ///< windows: sequences of an epoch
  std::vector<Turn> cycle_;
};

/// Which of the tokens `ids`, from token `first` of the split on, begin a document.
std::vector<bool> document_begins(const CorpusSplit& split,
                                  uint64_t first,
                                  std::span<const int32_t> ids,
                                  const BatchOptions& options) {
  std::vector<bool> begins(ids.size());
  if (!options.document_mask) return begins;
  // Of chats begin-of-text tells nothing: some formats have none.
  if (options.bos_id >= 0 && !split.marks_learnt()) {
    for (size_t i = 0; i < ids.size(); ++i) begins[i] = ids[i] == options.bos_id;
    return begins;
  }
  const auto documents = std::views::iota(uint64_t{0}, split.documents());
  for (auto document = std::ranges::partition_point(
           documents, [&](uint64_t d) { return split.offset(d) < first; });
       document != documents.end() && split.offset(*document) < first + ids.size(); ++document) {
    begins[split.offset(*document) - first] = true;
  }
  return begins;
}

}  // namespace

void append_window(const CorpusSplit& split,
                   uint64_t first,
                   const BatchOptions& options,
                   Batch& batch) {
  std::vector<int32_t> ids(static_cast<size_t>(options.length) + 1);
  std::vector<uint8_t> is_learnt(ids.size());
  split.read(first, ids);
  split.read_learnt(first, is_learnt);
  const std::vector<bool> begins = document_begins(split, first, ids, options);
  int64_t position = 0;
  int32_t segment = 0;
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    if (i > 0 && begins[i]) {
      position = 0;
      ++segment;
      batch.has_borders = true;
    }
    // What the next document begins with is not for this one to predict.
    const bool learns = is_learnt[i + 1] != 0 && !begins[i + 1];
    batch.tokens.push_back(ids[i]);
    batch.targets.push_back(learns ? ids[i + 1] : -1);
    batch.positions.push_back(position++);
    batch.segments.push_back(segment);
    batch.target_count += learns;
  }
}

void append_pieces(const CorpusSplit& split,
                   std::span<const Piece> pieces,
                   const BatchOptions& options,
                   Batch& batch) {
  int64_t filled = 0;
  int32_t segment = 0;
  const auto append = [&](int64_t token, int64_t target, int64_t position) {
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
      append(ids[at], is_learnt[at + 1] != 0 ? ids[at + 1] : -1,
             options.document_mask ? i : filled + i);
    }
    filled += piece.length;
  }
  if (filled < options.length) begin_segment();
  for (int64_t i = 0; filled < options.length; ++i, ++filled)
    append(0, -1, options.document_mask ? i : filled);
}

struct BatchStream::Impl {
  Impl(std::vector<WeightedSplit> splits, const BatchOptions& settings)
      : schedule(std::move(splits), settings), options(settings) {
    reader = std::jthread([this](const std::stop_token& stop) { read_ahead(stop); });
  }

  Batch make(uint64_t first) const {
    Batch batch;
    batch.sequences = options.sequences;
    batch.length = options.length;
    const auto size = static_cast<size_t>(options.sequences * options.length);
    batch.tokens.reserve(size);
    batch.targets.reserve(size);
    batch.positions.reserve(size);
    batch.segments.reserve(size);
    for (uint64_t i = 0; i < static_cast<uint64_t>(options.sequences); ++i) {
      schedule.append(first + i, batch);
    }
    return batch;
  }

  void read_ahead(const std::stop_token& stop) {
    std::unique_lock lock(mutex);
    while (changed.wait(lock, stop, [&] { return !error && ready.size() < kReadAhead; })) {
      const uint64_t wanted = position + ready.size() * static_cast<uint64_t>(options.sequences);
      const uint64_t seeks_before = seeks;
      lock.unlock();
      Batch batch;
      std::exception_ptr failure;
      try {
        batch = make(wanted);
      } catch (...) {
        failure = std::current_exception();
      }
      lock.lock();
      if (seeks != seeks_before) continue;
      // A next() meanwhile took one from the front: `wanted` still follows the last one here.
      if (failure)
        error = failure;
      else
        ready.push_back(std::move(batch));
      changed.notify_all();
    }
  }

  const Schedule schedule;
  const BatchOptions options;

  std::mutex mutex;
  std::condition_variable_any changed;
  std::deque<Batch> ready;   // those from `position` on
  std::exception_ptr error;  // of the batch after them
  uint64_t position = 0;     // sequences handed out
  uint64_t seeks = 0;
  std::jthread reader;  // last: stops before what it uses is gone
};

BatchStream::BatchStream(std::vector<WeightedSplit> splits, const BatchOptions& options)
    : impl_(std::make_unique<Impl>(std::move(splits), options)) {}

BatchStream::~BatchStream() = default;

Batch BatchStream::next() {
  Impl& self = *impl_;
  std::unique_lock lock(self.mutex);
  self.changed.wait(lock, [&] { return !self.ready.empty() || self.error; });
  if (self.ready.empty()) std::rethrow_exception(self.error);
  Batch batch = std::move(self.ready.front());
  self.ready.pop_front();
  self.position += static_cast<uint64_t>(self.options.sequences);
  self.changed.notify_all();
  return batch;
}

uint64_t BatchStream::position() const {
  const std::scoped_lock lock(impl_->mutex);
  return impl_->position;
}

void BatchStream::seek(uint64_t position) {
  const std::scoped_lock lock(impl_->mutex);
  impl_->position = position;
  impl_->ready.clear();
  impl_->error = nullptr;
  ++impl_->seeks;
  impl_->changed.notify_all();
}

uint64_t BatchStream::sequences_per_epoch() const { return impl_->schedule.windows(); }

double BatchStream::padding() const { return impl_->schedule.padding(); }

}  // namespace kvsmith
