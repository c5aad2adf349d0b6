#include "data/batches.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <ranges>
#include <thread>
#include <utility>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

constexpr size_t kReadAhead = 4;  ///< batches

[[noreturn]] void refuse(ExitCode code, const std::string& what, const std::string& remedy) {
  throw Error(code, {.what = what, .where = "batches", .remedy = remedy});
}

/// Windows of each split; its last token is a target only.
std::vector<uint64_t> windows_of(const std::vector<WeightedSplit>& splits,
                                 const BatchOptions& options) {
  if (options.length < 1) {
    refuse(ExitCode::kConfig, cat("sequences of ", options.length, " tokens"),
           "they have at least 1");
  }
  std::vector<uint64_t> windows;
  for (const WeightedSplit& s : splits) {
    const auto length = static_cast<uint64_t>(options.length);
    windows.push_back(s.split->tokens() == 0 ? 0 : (s.split->tokens() - 1) / length);
    if (windows.back() > 0) continue;
    refuse(ExitCode::kBadData,
           cat("a split of ", s.split->tokens(), " tokens is shorter than a sequence of ", length,
               " tokens and its last target"),
           "add text or train on shorter sequences");
  }
  return windows;
}

/// Which of `count` tokens, from token `first` of the split on, begin a document. The index tells:
/// begin-of-text need not be there, and may be what ends texts too.
std::vector<bool> document_begins(const CorpusSplit& split, uint64_t first, size_t count) {
  std::vector<bool> begins(count);
  const auto documents = std::views::iota(uint64_t{0}, split.documents());
  for (auto document = std::ranges::partition_point(
           documents, [&](uint64_t d) { return split.offset(d) < first; });
       document != documents.end() && split.offset(*document) < first + count; ++document) {
    begins[split.offset(*document) - first] = true;
  }
  return begins;
}

}  // namespace

Mixture mixture_of(const std::vector<WeightedSplit>& splits,
                   std::vector<uint64_t> items,
                   const BatchOptions& options) {
  std::vector<double> weights;
  for (const WeightedSplit& s : splits) weights.push_back(s.weight);
  return {std::move(items), weights, options.shuffle, options.seed};
}

void append_window(const CorpusSplit& split,
                   uint64_t first,
                   const BatchOptions& options,
                   Batch& batch) {
  std::vector<int32_t> ids(static_cast<size_t>(options.length) + 1);
  std::vector<uint8_t> is_learnt(ids.size());
  split.read(first, ids);
  split.read_learnt(first, is_learnt);
  const std::vector<bool> begins = options.document_mask ? document_begins(split, first, ids.size())
                                                         : std::vector<bool>(ids.size());
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
  batch.token_count += options.length;
}

WindowSource::WindowSource(std::vector<WeightedSplit> splits, const BatchOptions& options)
    : splits_(std::move(splits)),
      options_(options),
      mixture_(mixture_of(splits_, windows_of(splits_, options), options)) {}

Batch WindowSource::make(uint64_t first, int64_t sequences) const {
  Batch batch;
  batch.sequences = sequences;
  batch.length = options_.length;
  const auto size = static_cast<size_t>(sequences * options_.length);
  batch.tokens.reserve(size);
  batch.targets.reserve(size);
  batch.positions.reserve(size);
  batch.segments.reserve(size);
  for (uint64_t i = first; i < first + static_cast<uint64_t>(sequences); ++i) {
    const auto [split, window] = mixture_.at(i);
    append_window(*splits_[split].split, window * static_cast<uint64_t>(options_.length), options_,
                  batch);
  }
  return batch;
}

uint64_t WindowSource::sequences_with(int64_t tokens) const {
  const uint64_t all = sequences_per_epoch();
  if (tokens == 0) return all;
  return std::min(all, static_cast<uint64_t>((tokens + options_.length - 1) / options_.length));
}

struct BatchStream::Impl {
  Impl(std::unique_ptr<const BatchSource> from, int64_t count)
      : source(std::move(from)), sequences(static_cast<uint64_t>(count)) {
    reader = std::jthread([this](const std::stop_token& stop) { read_ahead(stop); });
  }

  void read_ahead(const std::stop_token& stop) {
    std::unique_lock lock(mutex);
    while (changed.wait(lock, stop, [&] { return !error && ready.size() < kReadAhead; })) {
      const uint64_t wanted = position + ready.size() * sequences;
      const uint64_t seeks_before = seeks;
      lock.unlock();
      Batch batch;
      std::exception_ptr failure;
      try {
        batch = source->make(wanted, static_cast<int64_t>(sequences));
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

  const std::unique_ptr<const BatchSource> source;
  const uint64_t sequences;  // of a batch

  std::mutex mutex;
  std::condition_variable_any changed;
  std::deque<Batch> ready;   // those from `position` on
  std::exception_ptr error;  // of the batch after them
  uint64_t position = 0;     // sequences handed out
  uint64_t seeks = 0;
  std::jthread reader;  // last: stops before what it uses is gone
};

BatchStream::BatchStream(std::unique_ptr<const BatchSource> source, int64_t sequences)
    : impl_(std::make_unique<Impl>(std::move(source), sequences)) {}

BatchStream::BatchStream(std::vector<WeightedSplit> splits,
                         const BatchOptions& options,
                         int64_t sequences)
    : BatchStream(std::make_unique<WindowSource>(std::move(splits), options), sequences) {}

BatchStream::~BatchStream() = default;

Batch BatchStream::next() {
  Impl& self = *impl_;
  std::unique_lock lock(self.mutex);
  self.changed.wait(lock, [&] { return !self.ready.empty() || self.error; });
  if (self.ready.empty()) std::rethrow_exception(self.error);
  Batch batch = std::move(self.ready.front());
  self.ready.pop_front();
  self.position += self.sequences;
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

uint64_t BatchStream::sequences_per_epoch() const { return impl_->source->sequences_per_epoch(); }

}  // namespace kvsmith
