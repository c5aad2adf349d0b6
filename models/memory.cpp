#include "models/memory.h"

#include <algorithm>
#include <numeric>

#include <torch/types.h>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {

Rows TransientRows::write(const Positions& positions, std::vector<at::Tensor> fresh) {
  streams_ = std::move(fresh);
  return {streams_, positions};
}

int64_t TransientRows::bytes_reserved() const {
  int64_t sum = 0;
  for (const auto& stream : streams_) sum += static_cast<int64_t>(stream.nbytes());
  return sum;
}

void CachedRows::reserve(int64_t rows, const std::vector<at::Tensor>& like) {
  if (rows <= capacity_ && !storage_.empty()) return;
  const int64_t chunk = std::max<int64_t>(1, options_.growth_rows);
  const int64_t wanted = std::max(options_.initial_rows, (rows + chunk - 1) / chunk * chunk);
  std::vector<at::Tensor> grown;
  for (size_t i = 0; i < like.size(); ++i) {
    auto shape = like[i].sizes().vec();
    shape[2] = wanted;
    // zeros, not garbage: rows past a short sequence's end are masked, and 0 * NaN is NaN
    grown.push_back(torch::zeros(shape, like[i].options()));
    if (capacity_ > 0) grown[i].narrow(2, 0, capacity_).copy_(storage_[i]);
  }
  storage_ = std::move(grown);
  capacity_ = wanted;
}

Rows CachedRows::write(const Positions& positions, std::vector<at::Tensor> fresh) {
  if (positions.is_packed() || fresh.at(0).size(0) != options_.batch) {
    throw Error(ExitCode::kInternal,
                {cat("a batch of ", fresh.at(0).size(0), " sequences for a cache of ",
                     options_.batch, positions.is_packed() ? ", packed" : ""),
                 "KvCache", "make the cache for this batch"});
  }
  const torch::NoGradGuard no_grad;
  reserve(positions.end(), fresh);
  const auto copy = [&](const at::Tensor& to, const at::Tensor& from, const Span& span) {
    to.narrow(to.dim() - 2, span.first, span.count)
        .copy_(from.narrow(from.dim() - 2, 0, span.count));
  };
  for (size_t i = 0; i < fresh.size(); ++i) {
    if (positions.is_range()) {
      copy(storage_[i], fresh[i], positions.span(0));
    } else {
      for (int64_t b = 0; b < options_.batch; ++b)
        copy(storage_[i][b], fresh[i][b], positions.span(b));
    }
  }
  for (int64_t b = 0; b < options_.batch; ++b) {
    const Span& span = positions.span(b);
    if (span.count > 0) lengths_[static_cast<size_t>(b)] = span.end();
  }
  const int64_t longest = *std::ranges::max_element(lengths_);
  std::vector<at::Tensor> streams;
  for (const auto& stream : storage_) streams.push_back(stream.narrow(2, 0, longest));
  const auto device = storage_[0].device();
  if (std::ranges::all_of(lengths_, [&](int64_t length) { return length == longest; })) {
    return {std::move(streams), Positions::range(0, longest, device)};
  }
  std::vector<Span> spans;
  for (const int64_t length : lengths_) spans.push_back({0, length});
  return {std::move(streams), Positions::ragged(std::move(spans), device)};
}

int64_t CachedRows::bytes_used() const {
  const int64_t rows = std::accumulate(lengths_.begin(), lengths_.end(), int64_t{0});
  int64_t sum = 0;
  for (const auto& stream : storage_) {
    sum += static_cast<int64_t>(stream.storage().nbytes()) / (options_.batch * capacity_) * rows;
  }
  return sum;
}

int64_t CachedRows::bytes_reserved() const {
  int64_t sum = 0;
  for (const auto& stream : storage_) sum += static_cast<int64_t>(stream.storage().nbytes());
  return sum;
}

void CachedRows::clear() { std::ranges::fill(lengths_, 0); }

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

}  // namespace kvsmith
