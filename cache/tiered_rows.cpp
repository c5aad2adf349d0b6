#include "cache/tiered_rows.h"

#include <algorithm>
#include <limits>

#include <torch/types.h>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr int64_t kDecidingQueries = 64;  // of a prompt

at::Tensor host_counts(const std::vector<int64_t>& counts, at::Device device) {
  return torch::tensor(counts).view({-1, 1, 1}).to(device);
}

}  // namespace

TieredRows::TieredRows(std::shared_ptr<const LayerPlan> plan, const CacheOptions& options)
    : plan_(std::move(plan)),
      options_(options),
      fine_(options.batch, plan_->facts.heads, options.growth_rows),
      coarse_(options.batch, plan_->facts.heads, options.growth_rows),
      lengths_(static_cast<size_t>(options.batch), 0),
      observed_(static_cast<size_t>(options.batch), -1),
      step_tokens_(static_cast<size_t>(options.batch), 0) {}

at::Tensor TieredRows::decoded(const SlotStore& store, size_t stream, const RowCodec& codec) const {
  const StreamShape& shape = plan_->streams[stream].shape;
  return codec.decode(unfolded(store.column(stream), shape.heads), shape.width, type_);
}

Rows TieredRows::read() const {
  Rows rows;
  rows.observer = const_cast<TieredRows*>(this);
  if (fine_.empty() && coarse_.empty()) return rows;
  rows.streams.resize(stream_slots_);
  auto at = positions_in(fine_, index_column());
  if (!coarse_.empty()) at = torch::cat({at, positions_in(coarse_, index_column())}, 2);
  copied_ = 0;
  for (size_t i = 0; i < plan_->streams.size(); ++i) {
    auto& stream = rows.streams[plan_->streams[i].shape.index];
    stream = decoded(fine_, i, *plan_->streams[i].codec);
    if (!coarse_.empty()) stream = torch::cat({stream, decoded(coarse_, i, *plan_->coarse[i])}, 2);
    if (!stream.is_alias_of(fine_.column(i))) copied_ += static_cast<int64_t>(stream.nbytes());
  }
  transient_peak_ = std::max(transient_peak_, copied_);
  rows.positions = Positions::scattered(at);
  return rows;
}

void TieredRows::rewind(const Positions& positions) {
  for (size_t b = 0; b < lengths_.size(); ++b) {
    const Span& span = positions.span(static_cast<int64_t>(b));
    if (span.count == 0 || span.first >= lengths_[b]) continue;
    for (int64_t head = 0; head < plan_->facts.heads; ++head) {
      if (fine_.count(static_cast<int64_t>(b), head) == lengths_[b]) continue;
      throw Error(ExitCode::kInternal,
                  {cat("position ", span.first, " after ", lengths_[b], " with retention leankv"),
                   "KvCache", "what has been dropped cannot come back: fork() the cache before"});
    }
    fine_.truncate(static_cast<int64_t>(b), span.first);
    lengths_[b] = span.first;
    if (span.first <= observed_[b]) observed_[b] = -1;
  }
}

Rows TieredRows::write(const Positions& positions, std::vector<at::Tensor> fresh) {
  const torch::NoGradGuard no_grad;
  rewind(positions);
  stream_slots_ = fresh.size();
  type_ = fresh[plan_->streams[0].shape.index].scalar_type();
  const int64_t heads = plan_->facts.heads, seq = positions.seq();
  std::vector<at::Tensor> rows;
  for (const auto& [shape, codec] : plan_->streams)
    rows.push_back(folded(codec->encode(fresh[shape.index]), heads));
  const auto at = positions.at().expand({options_.batch, seq}).view({options_.batch, 1, seq, 1});
  rows.push_back(at.expand({-1, heads, -1, -1}).to(torch::kInt));
  rows.push_back(
      torch::zeros({options_.batch, heads, seq, 1}, rows[0].options().dtype(torch::kFloat)));
  fine_.append(rows, positions);
  for (size_t b = 0; b < lengths_.size(); ++b) {
    const Span& span = positions.span(static_cast<int64_t>(b));
    step_tokens_[b] = span.count;
    if (span.count == 0) continue;
    lengths_[b] = span.end();
    if (observed_[b] < 0) observed_[b] = std::max<int64_t>(0, span.end() - kDecidingQueries);
  }
  return read();
}

void TieredRows::observe(const AttentionScores& scores) {
  const LayerFacts& facts = plan_->facts;
  const auto first = torch::tensor(observed_).view({-1, 1}).to(scores.queries.device());
  const auto deciding = scores.queries.ge(first.clamp_min(0));
  const auto& w = scores.weights;
  const auto by_head = w.view({w.size(0), facts.heads, facts.group, w.size(2), w.size(3)}).amax(2);
  const auto sum = (by_head * deciding.view({-1, 1, deciding.size(1), 1})).sum(2) / facts.readers;
  tally_ = tally_.defined() ? tally_ + sum : sum;
}

at::Tensor TieredRows::even_share() const {
  return host_counts(lengths_, fine_.column(0).device()).to(torch::kFloat).reciprocal();
}

TieredRows::Judged TieredRows::judged(const SlotStore& store) const {
  Judged out;
  out.at = positions_in(store, index_column());
  const auto device = out.at.device();
  const auto tokens = host_counts(lengths_, device);
  const auto queries = tokens - out.at.maximum(host_counts(observed_, device));
  out.mean = store.column(score_column()).squeeze(3) / queries.clamp_min(1);
  out.open = out.at.ge(plan_->sinks).logical_and(out.at.lt(tokens - plan_->recent));
  return out;
}

void TieredRows::settle() {
  if (fine_.empty() || !tally_.defined()) return;
  const torch::NoGradGuard no_grad;
  const int64_t fine = fine_.rows(), before = bytes_reserved();
  fine_.column(score_column()).add_(tally_.narrow(2, 0, fine).unsqueeze(3));
  if (!coarse_.empty())
    coarse_.column(score_column()).add_(tally_.narrow(2, fine, coarse_.rows()).unsqueeze(3));
  tally_.reset();
  const auto tokens = host_counts(step_tokens_, fine_.column(0).device());
  if (std::ranges::any_of(step_tokens_, [](int64_t count) { return count > 1; }))
    judge_prompt(tokens.gt(1));
  if (std::ranges::count(step_tokens_, 1) > 0) judge_one(tokens.eq(1));
  transient_peak_ = std::max(transient_peak_, copied_ + before - bytes_reserved());
}

std::vector<at::Tensor> TieredRows::coarsened(const at::Tensor& slots) const {
  const auto index = slots.clamp_min(0).unsqueeze(3);
  std::vector<at::Tensor> out;
  for (size_t i = 0; i <= score_column(); ++i) {
    const auto column = fine_.column(i);
    auto rows = column.gather(2, index.expand({-1, -1, -1, column.size(3)}));
    if (i < plan_->streams.size()) {
      const auto& [shape, codec] = plan_->streams[i];
      const auto exact = codec->decode(unfolded(rows, shape.heads), shape.width, at::kFloat);
      rows = folded(plan_->coarse[i]->encode(exact), plan_->facts.heads);
    }
    out.push_back(rows);
  }
  return out;
}

void TieredRows::judge_prompt(const at::Tensor& sequences) {
  Judged rows = judged(fine_);
  rows.open = rows.open.logical_and(sequences);
  const auto share = even_share();
  const auto goes = rows.open.logical_and(rows.mean.lt(share * plan_->config.alpha_low));
  const auto coarse = rows.open.logical_and(rows.mean.lt(share * plan_->config.alpha_high))
                          .logical_and(goes.logical_not());
  const auto slots = chosen_slots(coarse);
  if (slots.size(2) > 0) coarse_.append_some(coarsened(slots), slots.ge(0).sum(2));
  fine_.keep(chosen_slots(rows.at.ge(0).logical_and(goes.logical_or(coarse).logical_not())));
}

void TieredRows::judge_one(const at::Tensor& sequences) {
  Judged fine = judged(fine_);
  fine.open = fine.open.logical_and(sequences);
  const auto worth = fine.mean.masked_fill(fine.open.logical_not(), kInfinity);
  const auto least = worth.amin(2);
  const auto tied = worth.eq(least.unsqueeze(2)).logical_and(fine.at.ge(0));
  const auto victim = fine.at.masked_fill(tied.logical_not(), INT64_MAX).argmin(2);  // the oldest
  const auto share = even_share().squeeze(2);
  const auto lowest = share * plan_->config.alpha_low;
  auto coarse_least = torch::full_like(least, kInfinity);
  auto coarse_slot = torch::full_like(victim, -1);
  if (!coarse_.empty()) {
    const Judged coarse = judged(coarse_);
    std::tie(coarse_least, coarse_slot) =
        coarse.mean.masked_fill(coarse.at.lt(0), kInfinity).min(2);
  }
  const auto goes = least.lt(lowest).logical_and(least.le(coarse_least));
  const auto turns_coarse =
      least.lt(share * plan_->config.alpha_high).logical_and(goes.logical_not());
  if (turns_coarse.any().item<bool>()) {
    // in the place of a coarse row that would go by now
    const auto place = coarse_slot.masked_fill(coarse_least.ge(lowest), -1);
    coarse_.put(place, coarsened(victim.unsqueeze(2)), turns_coarse);
  }
  fine_.drop_one(victim, goes.logical_or(turns_coarse));
}

int64_t TieredRows::bytes_used() const { return ledger().resident(); }
int64_t TieredRows::bytes_reserved() const {
  return fine_.bytes_reserved() + coarse_.bytes_reserved();
}

void TieredRows::add(ByteLedger& ledger, const SlotStore& store, bool is_fine) const {
  const int64_t rows = store.total();
  const int64_t metadata = rows * plan_->codec_metadata_bytes(is_fine);
  ledger.codec_metadata += metadata;
  ledger.payload -= metadata;
  for (size_t i = 0; i < plan_->streams.size(); ++i) ledger.payload += rows * store.row_bytes(i);
  ledger.index += rows * store.row_bytes(index_column());
  ledger.policy_state += rows * store.row_bytes(score_column());
}

ByteLedger TieredRows::ledger() const {
  ByteLedger out;
  if (!fine_.empty()) add(out, fine_, true);
  if (!coarse_.empty()) add(out, coarse_, false);
  out.reserved = bytes_reserved();
  out.transient_peak = transient_peak_;
  return out;
}

void TieredRows::clear() {
  fine_.clear();
  coarse_.clear();
  std::ranges::fill(lengths_, 0);
  std::ranges::fill(observed_, -1);
  tally_.reset();
}

std::unique_ptr<Memory> TieredRows::clone() const {
  auto out = std::make_unique<TieredRows>(plan_, options_);
  out->fine_ = fine_.copy();
  out->coarse_ = coarse_.copy();
  out->lengths_ = lengths_;
  out->observed_ = observed_;
  out->step_tokens_ = step_tokens_;
  out->stream_slots_ = stream_slots_;
  out->type_ = type_;
  out->transient_peak_ = transient_peak_;
  return out;
}

}  // namespace kvsmith
