#include "cache/kivi_rows.h"

#include <algorithm>
#include <functional>
#include <utility>

#include <torch/types.h>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

bool all_equal(const std::vector<int64_t>& numbers) {
  return std::ranges::adjacent_find(numbers, std::not_equal_to<>()) == numbers.end();
}

int64_t round_up(int64_t number, int64_t step) { return (number + step - 1) / step * step; }

[[noreturn]] void broken(std::string what, std::string remedy) {
  throw Error(ExitCode::kInternal, {std::move(what), "KvCache", std::move(remedy)});
}

/// Calls each(lane, span): once where all sequences are alike, otherwise for every sequence that
/// has tokens.
template <class Each>
void for_each_lane(const Positions& positions, bool uniform, int64_t batch, const Each& each) {
  if (uniform && positions.is_range()) return each(Lane{0, batch}, positions.span(0));
  for (int64_t b = 0; b < batch; ++b)
    if (positions.span(b).count > 0) each(Lane{b, 1}, positions.span(b));
}

}  // namespace

std::string kivi_needs(const KiviOptions& options, int64_t value_width) {
  for (const int64_t bits : {options.bits_k, options.bits_v}) {
    if (bits != 2 && bits != 4 && bits != 8) return cat("2, 4 or 8 bits, not ", bits);
    if (options.group <= 0 || options.group % (8 / bits) != 0)
      return cat("groups of a multiple of ", 8 / bits, " elements, not ", options.group);
  }
  if (options.residual <= 0 || options.residual % options.group != 0)
    return cat("a residual of a multiple of ", options.group, " tokens, not ", options.residual);
  if (value_width % options.group != 0)
    return cat("values of a multiple of ", options.group, " elements, not ", value_width);
  return {};
}

KiviRows::KiviRows(const CacheOptions& options, const KiviOptions& kivi)
    : options_(options), kivi_(kivi), lengths_(static_cast<size_t>(options.batch), 0) {
  const auto needs = kivi_needs(kivi, /*value_width=*/0);
  if (!needs.empty()) throw Error(ExitCode::kConfig, {"KIVI needs " + needs, "cache", ""});
}

bool KiviRows::uniform() const {
  // quantised tokens of equally long texts differ after a rewind() of some
  return all_equal(lengths_) && std::ranges::all_of(streams_, [](const auto& stream) {
           return !stream || all_equal(stream->quantised());
         });
}

Rows KiviRows::read() const {
  const int64_t longest = std::ranges::max(lengths_);
  if (longest == 0) return {};
  const bool even = all_equal(lengths_);
  std::vector<Span> spans;
  for (const int64_t length : lengths_) spans.push_back({0, length});
  const auto device =
      (*std::ranges::find_if(streams_, [](const auto& stream) { return stream.has_value(); }))
          ->exact()
          .device();
  Rows out{
      std::vector<at::Tensor>(streams_.size()),
      even ? Positions::range(0, longest, device) : Positions::ragged(std::move(spans), device)};
  for (size_t i = 0; i < streams_.size(); ++i) {
    if (!streams_[i]) continue;
    const auto options = streams_[i]->exact().options();
    auto shape = streams_[i]->exact().sizes().vec();
    shape[2] = longest;
    // zeros past a short sequence's end: rows there are masked, and 0 * NaN is NaN
    out.streams[i] = even ? torch::empty(shape, options) : torch::zeros(shape, options);
    for_each_lane(out.positions, uniform(), options_.batch,
                  [&](const Lane& lane, const Span& span) {
                    streams_[i]->read(
                        lane, span.count,
                        out.streams[i].narrow(0, lane.first, lane.count).narrow(2, 0, span.count));
                  });
  }
  transient_peak_ = std::max(transient_peak_, bytes_of(out.streams));
  return out;
}

void KiviRows::rewind(const Positions& positions) {
  for (size_t b = 0; b < lengths_.size(); ++b) {
    const Span& span = positions.span(static_cast<int64_t>(b));
    if (span.count == 0 || span.first >= lengths_[b]) continue;
    for (const auto& stream : streams_) {
      if (!stream || stream->quantised()[b] <= span.first) continue;
      broken(cat("position ", span.first, " after ", lengths_[b], " tokens, ",
                 stream->quantised()[b], " of them quantised"),
             "what is quantised cannot be taken back: fork() the cache before");
    }
    lengths_[b] = span.first;
  }
}

/// Checks a write and makes room for it.
void KiviRows::prepare(const Positions& positions, const std::vector<at::Tensor>& fresh) {
  using Groups = KiviStream::Groups;
  if (fresh.size() != 2) broken(cat(fresh.size(), " streams for KIVI"), "give keys and values");
  for (size_t b = 0; b < lengths_.size(); ++b) {
    const Span& span = positions.span(static_cast<int64_t>(b));
    if (span.count > 0 && span.first != lengths_[b])
      broken(cat("position ", span.first, " after ", lengths_[b], " tokens"), "leave no gap");
  }
  if (streams_.empty()) {
    const auto needs = kivi_needs(kivi_, fresh[1].defined() ? fresh[1].size(3) : 0);
    if (!needs.empty()) broken("KIVI needs " + needs, "choose another cache");
    const int64_t batch = options_.batch, group = kivi_.group, residual = kivi_.residual;
    streams_.resize(2);
    if (fresh[0].defined())
      streams_[0].emplace(Groups::kTokensOfChannel, batch, kivi_.bits_k, group, residual);
    if (fresh[1].defined())
      streams_[1].emplace(Groups::kChannelsOfToken, batch, kivi_.bits_v, group, residual);
  }
  // as many as keys need, of which values never have more
  const auto whole = [&](int64_t tokens) { return tokens - tokens % kivi_.residual; };
  const int64_t rows = whole(positions.end());
  const int64_t wanted = std::max(
      whole(options_.initial_rows),
      round_up(round_up(rows, std::max<int64_t>(1, options_.growth_rows)), kivi_.residual));
  for (size_t i = 0; i < streams_.size(); ++i)
    if (streams_[i]) streams_[i]->reserve(wanted, fresh[i]);
}

Rows KiviRows::write(const Positions& positions, std::vector<at::Tensor> fresh) {
  for (const auto& stream : fresh) {
    if (positions.is_packed() || (stream.defined() && stream.size(0) != options_.batch))
      broken(cat("packed texts or another batch for a cache of ", options_.batch, " sequences"),
             "make the cache for this batch");
  }
  const torch::NoGradGuard no_grad;
  rewind(positions);
  Rows past;
  if (!kivi_.quantise_before_attend) past = read();
  prepare(positions, fresh);
  for_each_lane(positions, uniform(), options_.batch, [&](const Lane& lane, const Span& span) {
    for (size_t i = 0; i < streams_.size(); ++i) {
      if (!streams_[i]) continue;
      const auto own = fresh[i].narrow(0, lane.first, lane.count).narrow(2, 0, span.count);
      streams_[i]->append(lane, span.first, own);
    }
    std::fill_n(lengths_.begin() + lane.first, lane.count, span.end());
  });
  return kivi_.quantise_before_attend ? read() : joined(past, positions, fresh);
}

std::vector<at::Tensor> KiviRows::as_stored(const Positions& positions,
                                            std::vector<at::Tensor> fresh) const {
  // a token alone is among the exact ones
  if (!kivi_.quantise_before_attend || positions.seq() == 1 || !positions.is_range()) return fresh;
  KiviRows after = *this;
  for (auto& stream : after.streams_)
    if (stream) stream = stream->copy();
  const auto rows = after.write(positions, fresh);
  for (size_t i = 0; i < fresh.size(); ++i)
    if (fresh[i].defined())
      fresh[i] = rows.streams[i].narrow(2, rows.positions.seq() - positions.seq(), positions.seq());
  return fresh;
}

int64_t KiviRows::bytes_used() const {
  int64_t sum = 0;
  for (const auto& stream : streams_) sum += stream ? stream->bytes_used(lengths_) : 0;
  return sum;
}

int64_t KiviRows::bytes_reserved() const {
  int64_t sum = 0;
  for (const auto& stream : streams_) sum += stream ? stream->bytes_reserved() : 0;
  return sum;
}

ByteLedger KiviRows::ledger() const {
  ByteLedger out;
  for (const auto& stream : streams_) out.codec_metadata += stream ? stream->metadata_bytes() : 0;
  out.payload = bytes_used() - out.codec_metadata;
  out.reserved = bytes_reserved();
  out.transient_peak = transient_peak_;
  return out;
}

void KiviRows::clear() {
  std::ranges::fill(lengths_, 0);
  for (auto& stream : streams_)
    if (stream) stream->clear();
}

std::unique_ptr<Memory> KiviRows::clone() const {
  auto out = std::make_unique<KiviRows>(*this);
  for (auto& stream : out->streams_)
    if (stream) stream = stream->copy();
  return out;
}

int64_t kivi_bytes(const KiviOptions& options,
                   int64_t kv_heads,
                   int64_t key_width,
                   int64_t value_width,
                   int64_t tokens,
                   int64_t element_bytes) {
  constexpr int64_t kScaleAndZero = 4;
  const int64_t exact_keys = tokens % options.residual;
  const int64_t exact_values = std::min(tokens, options.residual);
  const int64_t keys = tokens - exact_keys, values = tokens - exact_values;
  return kv_heads *
         (keys * key_width * options.bits_k / 8 + keys / options.group * key_width * kScaleAndZero +
          exact_keys * key_width * element_bytes + values * value_width * options.bits_v / 8 +
          values * (value_width / options.group) * kScaleAndZero +
          exact_values * value_width * element_bytes);
}

}  // namespace kvsmith
