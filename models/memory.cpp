#include "models/memory.h"

#include <algorithm>
#include <numeric>

#include <torch/types.h>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

/// Storage for `rows` rows shaped like `fresh`, beginning with what `old` holds.
std::vector<at::Tensor> grown(const std::vector<at::Tensor>& old,
                              const std::vector<at::Tensor>& fresh,
                              int64_t rows) {
  std::vector<at::Tensor> out(fresh.size());
  for (size_t i = 0; i < fresh.size(); ++i) {
    if (!fresh[i].defined()) continue;
    auto shape = fresh[i].sizes().vec();
    shape[2] = rows;
    // zeros, not garbage: rows past a short sequence's end are masked, and 0 * NaN is NaN
    out[i] = torch::zeros(shape, fresh[i].options());
    if (!old.empty()) out[i].narrow(2, 0, old[i].size(2)).copy_(old[i]);
  }
  return out;
}

std::vector<at::Tensor> first_rows(const std::vector<at::Tensor>& storage, int64_t rows) {
  std::vector<at::Tensor> out;
  for (const auto& stream : storage)
    out.push_back(stream.defined() ? stream.narrow(2, 0, rows) : stream);
  return out;
}

const at::Tensor& first_defined(const std::vector<at::Tensor>& streams) {
  return *std::ranges::find_if(streams, [](const auto& stream) { return stream.defined(); });
}

void check_batch(const Positions& positions, int64_t batch, const CacheOptions& options) {
  if (!positions.is_packed() && batch == options.batch) return;
  throw Error(ExitCode::kInternal, {cat("a batch of ", batch, " sequences for a cache of ",
                                        options.batch, positions.is_packed() ? ", packed" : ""),
                                    "KvCache", "make the cache for this batch"});
}

bool all_equal(const std::vector<int64_t>& lengths) {
  return std::ranges::all_of(lengths, [&](int64_t length) { return length == lengths[0]; });
}

void advance(std::vector<int64_t>& lengths, const Positions& positions) {
  for (size_t b = 0; b < lengths.size(); ++b) {
    const Span& span = positions.span(static_cast<int64_t>(b));
    if (span.count > 0) lengths[b] = span.end();
  }
}

/// Calls copy(to, from, span) for each stream: once where all sequences have one span, otherwise
/// for each sequence.
template <class Copy>
void copy_rows(const std::vector<at::Tensor>& storage,
               const std::vector<at::Tensor>& fresh,
               const Positions& positions,
               const Copy& copy) {
  for (size_t i = 0; i < fresh.size(); ++i) {
    if (!fresh[i].defined()) continue;
    if (positions.is_range()) {
      copy(storage[i], fresh[i], positions.span(0));
    } else {
      for (int64_t b = 0; b < fresh[i].size(0); ++b)
        copy(storage[i][b], fresh[i][b], positions.span(b));
    }
  }
}

int64_t round_up(int64_t rows, int64_t chunk) {
  return (rows + chunk - 1) / std::max<int64_t>(1, chunk) * std::max<int64_t>(1, chunk);
}

}  // namespace

std::vector<at::Tensor> copies(const std::vector<at::Tensor>& storage) {
  std::vector<at::Tensor> out;
  for (const auto& stream : storage) out.push_back(stream.defined() ? stream.clone() : stream);
  return out;
}

int64_t bytes_of(const std::vector<at::Tensor>& storage) {
  int64_t sum = 0;
  for (const auto& stream : storage)
    sum += stream.defined() ? static_cast<int64_t>(stream.storage().nbytes()) : 0;
  return sum;
}

ByteLedger& ByteLedger::operator+=(const ByteLedger& other) {
  payload += other.payload;
  codec_metadata += other.codec_metadata;
  index += other.index;
  policy_state += other.policy_state;
  reserved += other.reserved;
  transient_peak = std::max(transient_peak, other.transient_peak);  // layers run one by one
  return *this;
}

ByteLedger Memory::ledger() const {
  return {.payload = bytes_used(), .reserved = bytes_reserved()};
}

Rows joined(const Rows& past, const Positions& positions, const std::vector<at::Tensor>& fresh) {
  if (past.empty()) return {fresh, positions, past.allowed, past.observer, past.gates};
  std::vector<at::Tensor> streams(fresh.size());
  for (size_t i = 0; i < fresh.size(); ++i)
    if (fresh[i].defined()) streams[i] = torch::cat({past.streams[i], fresh[i]}, 2);
  return {std::move(streams), Positions::joined(past.positions, positions), past.allowed,
          past.observer, past.gates};
}

Rows with_heads(const Rows& own,
                const Rows& below,
                const std::vector<std::vector<int64_t>>& reused) {
  Rows out{std::vector<at::Tensor>(reused.size()), below.positions};
  for (size_t i = 0; i < reused.size(); ++i) {
    const auto stream = own.empty() ? at::Tensor() : own.streams[i];
    if (reused[i].empty() || !stream.defined()) {
      out.streams[i] = reused[i].empty() ? stream : below.streams[i];
      continue;
    }
    auto heads = stream.split(1, /*dim=*/1);
    for (const int64_t head : reused[i])
      heads.insert(heads.begin() + head, below.streams[i].narrow(1, head, 1));
    out.streams[i] = torch::cat(heads, 1);
  }
  return out;
}

Rows TransientRows::write(const Positions& positions, std::vector<at::Tensor> fresh) {
  rows_.streams = std::move(fresh);
  rows_.positions = positions;
  return rows_;
}

int64_t TransientRows::bytes_reserved() const {
  int64_t sum = 0;
  for (const auto& stream : rows_.streams)
    sum += stream.defined() ? static_cast<int64_t>(stream.nbytes()) : 0;
  return sum;
}

std::unique_ptr<Memory> TransientRows::clone() const {
  return std::make_unique<TransientRows>(*this);
}

void CachedRows::reserve(int64_t rows, const std::vector<at::Tensor>& like) {
  if (rows <= capacity_ && !storage_.empty()) return;
  const int64_t wanted = std::max(options_.initial_rows, round_up(rows, options_.growth_rows));
  storage_ = grown(storage_, like, wanted);
  capacity_ = wanted;
}

Rows CachedRows::read() const {
  const int64_t longest = *std::ranges::max_element(lengths_);
  if (longest == 0) return {};
  auto streams = first_rows(storage_, longest);
  const auto device = first_defined(storage_).device();
  if (all_equal(lengths_)) return {std::move(streams), Positions::range(0, longest, device)};
  std::vector<Span> spans;
  for (const int64_t length : lengths_) spans.push_back({0, length});
  return {std::move(streams), Positions::ragged(std::move(spans), device)};
}

void CachedRows::rewind(const Positions& positions) {
  for (size_t b = 0; b < lengths_.size(); ++b) {
    const Span& span = positions.span(static_cast<int64_t>(b));
    if (span.count > 0) lengths_[b] = std::min(lengths_[b], span.first);
  }
}

Rows CachedRows::write(const Positions& positions, std::vector<at::Tensor> fresh) {
  check_batch(positions, first_defined(fresh).size(0), options_);
  const torch::NoGradGuard no_grad;
  rewind(positions);
  reserve(positions.end(), fresh);
  const auto copy = [&](const at::Tensor& to, const at::Tensor& from, const Span& span) {
    to.narrow(to.dim() - 2, span.first, span.count)
        .copy_(from.narrow(from.dim() - 2, 0, span.count));
  };
  copy_rows(storage_, fresh, positions, copy);
  advance(lengths_, positions);
  return read();
}

int64_t CachedRows::bytes_used() const {
  if (capacity_ == 0) return 0;
  const int64_t rows = std::accumulate(lengths_.begin(), lengths_.end(), int64_t{0});
  return bytes_of(storage_) / (options_.batch * capacity_) * rows;
}

int64_t CachedRows::bytes_reserved() const { return bytes_of(storage_); }

void CachedRows::clear() { std::ranges::fill(lengths_, 0); }

std::unique_ptr<Memory> CachedRows::clone() const {
  auto out = std::make_unique<CachedRows>(*this);
  out->storage_ = copies(storage_);
  return out;
}

std::unique_ptr<Memory> CachedRows::clone_start(int64_t tokens) const {
  auto out = std::make_unique<CachedRows>(*this);
  for (auto& length : out->lengths_) length = std::min(length, tokens);
  out->options_.initial_rows = 0;
  out->capacity_ = *std::ranges::max_element(out->lengths_);
  out->storage_ = copies(first_rows(storage_, out->capacity_));
  return out;
}

RingRows::RingRows(const CacheOptions& options, int64_t window, int64_t sinks)
    : options_(options), window_(window), sinks_(sinks), lengths_(options.batch, 0) {}

void RingRows::reserve(int64_t rows, const std::vector<at::Tensor>& like) {
  if (rows <= allocated_ && !storage_.empty()) return;
  const int64_t wanted =
      std::min(capacity(), std::max(options_.initial_rows, round_up(rows, options_.growth_rows)));
  storage_ = grown(storage_, like, wanted);
  allocated_ = wanted;
}

Rows RingRows::read() const {
  const int64_t longest = *std::ranges::max_element(lengths_);
  if (longest == 0) return {};
  const int64_t rows = rows_of(longest);
  auto streams = first_rows(storage_, rows);
  const auto device = first_defined(storage_).device();
  if (longest <= capacity() && all_equal(lengths_)) {
    return {std::move(streams), Positions::range(0, longest, device)};
  }
  // the newest position below the length whose slot this is, or -1
  const auto lengths =
      torch::tensor(all_equal(lengths_) ? std::vector<int64_t>{longest} : lengths_).unsqueeze(1);
  const auto slot = torch::arange(rows, torch::kLong).unsqueeze(0);
  const auto laps = (lengths - 1 - slot).clamp_min(0).floor_divide(window_);
  const auto at = torch::where(slot.lt(sinks_), slot, slot + laps * window_);
  return {std::move(streams),
          Positions::scattered(at.masked_fill(slot.ge(lengths), -1).to(device))};
}

void RingRows::rewind(const Positions& positions) {
  for (size_t b = 0; b < lengths_.size(); ++b) {
    const Span& span = positions.span(static_cast<int64_t>(b));
    if (span.count == 0 || span.first >= lengths_[b]) continue;
    if (lengths_[b] > capacity()) {
      throw Error(
          ExitCode::kInternal,
          {cat("position ", span.first, " after ", lengths_[b], " in a window of ", window_),
           "KvCache", "what has left the window cannot come back: fork() the cache before"});
    }
    lengths_[b] = span.first;
  }
}

Rows RingRows::write(const Positions& positions, std::vector<at::Tensor> fresh) {
  check_batch(positions, first_defined(fresh).size(0), options_);
  const torch::NoGradGuard no_grad;
  rewind(positions);
  reserve(rows_of(positions.end()), fresh);
  Rows seen;
  const bool one_each = positions.seq() == 1;
  if (!one_each) seen = joined(read(), positions, fresh);

  const auto copy = [&](const at::Tensor& to, const at::Tensor& from, const Span& span) {
    for (int64_t p = span.first; p < span.end();) {
      if (p >= sinks_ && p < span.end() - window_) p = span.end() - window_;
      // as many as lie side by side in the ring
      const int64_t until_wrap = p < sinks_ ? sinks_ - p : capacity() - slot_of(p);
      const int64_t count = std::min(until_wrap, span.end() - p);
      to.narrow(to.dim() - 2, slot_of(p), count)
          .copy_(from.narrow(from.dim() - 2, p - span.first, count));
      p += count;
    }
  };
  copy_rows(storage_, fresh, positions, copy);
  advance(lengths_, positions);
  return one_each ? read() : seen;
}

int64_t RingRows::bytes_used() const {
  if (allocated_ == 0) return 0;
  int64_t rows = 0;
  for (const int64_t length : lengths_) rows += rows_of(length);
  return bytes_of(storage_) / (options_.batch * allocated_) * rows;
}

int64_t RingRows::bytes_reserved() const { return bytes_of(storage_); }

void RingRows::clear() { std::ranges::fill(lengths_, 0); }

std::unique_ptr<Memory> RingRows::clone() const { return std::make_unique<RingRows>(copy()); }

RingRows RingRows::copy() const {
  RingRows out = *this;
  out.options_.initial_rows = 0;
  out.allocated_ = rows_of(*std::ranges::max_element(lengths_));
  out.storage_ = copies(first_rows(storage_, out.allocated_));
  return out;
}

RingRows::Displaced RingRows::displaced(const Positions& positions) const {
  Displaced out;
  std::vector<int64_t> slots;
  std::vector<uint8_t> wanted;
  for (int64_t b = 0; b < options_.batch; ++b) {
    const Span& span = positions.span(b);
    const bool overwrites = span.count > 0 && span.first >= capacity();
    slots.push_back(overwrites ? slot_of(span.first) : 0);
    wanted.push_back(overwrites);
  }
  const auto device = first_defined(storage_).device();
  const auto at = torch::tensor(slots).to(device).view({-1, 1, 1, 1});
  for (const auto& stream : storage_) {
    out.streams.push_back(stream.defined()
                              ? stream.gather(2, at.expand({-1, stream.size(1), 1, stream.size(3)}))
                              : stream);
  }
  out.wanted = torch::tensor(wanted).to(torch::kBool).to(device);
  return out;
}

bool KvCache::has_rows(int64_t layer) const {
  return dynamic_cast<const RowMemory*>(layers_.at(static_cast<size_t>(layer)).get()) != nullptr;
}

void KvCache::replace(int64_t layer, std::unique_ptr<Memory> memory) {
  layers_.at(static_cast<size_t>(layer)) = std::move(memory);
}

void KvCache::attach() {
  for (auto& layer : layers_)
    if (layer) layer->attach(*this);
}

ByteLedger KvCache::ledger() const {
  ByteLedger sum;
  for (const auto& layer : layers_) {
    if (layer) sum += layer->ledger();
  }
  return sum;
}

int64_t KvCache::bytes_used() const {
  int64_t sum = 0;
  for (const auto& layer : layers_) sum += layer ? layer->bytes_used() : 0;
  return sum;
}

int64_t KvCache::bytes_reserved() const {
  int64_t sum = 0;
  for (const auto& layer : layers_) sum += layer ? layer->bytes_reserved() : 0;
  return sum;
}

void KvCache::clear() {
  for (auto& layer : layers_) {
    if (layer) layer->clear();
  }
}

void KvCache::rewind(int64_t tokens) {
  for (auto& layer : layers_) {
    if (layer) dynamic_cast<RowMemory&>(*layer).rewind(Positions::range(tokens, 1));
  }
}

KvCache KvCache::fork() const {
  std::vector<std::unique_ptr<Memory>> layers;
  for (const auto& layer : layers_) layers.push_back(layer ? layer->clone() : nullptr);
  KvCache out(std::move(layers));
  out.attach();
  return out;
}

KvCache KvCache::fork(int64_t tokens) const {
  std::vector<std::unique_ptr<Memory>> layers;
  for (const auto& layer : layers_) layers.push_back(layer ? layer->clone_start(tokens) : nullptr);
  KvCache out(std::move(layers));
  out.attach();
  for (auto& layer : out.layers_)
    if (auto* rows = dynamic_cast<RowMemory*>(layer.get()))
      rows->rewind(Positions::range(tokens, 1));
  return out;
}

}  // namespace kvsmith
