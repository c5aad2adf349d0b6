#include "cache/managed_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include <torch/types.h>

#include "cache/block_store.h"
#include "cache/eviction.h"
#include "cache/noise.h"
#include "cache/slot_store.h"
#include "cache/value_merging.h"
#include "core/error.h"
#include "core/text.h"
#include "ops/layers.h"

namespace kvsmith {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

at::Tensor with_more(const at::Tensor& keys, const at::Tensor& more) {
  return keys.defined() ? torch::cat({keys, more}, 3) : more;
}

/// Of each element among those of its head, from 0.
at::Tensor ranked(const at::Tensor& x) {
  return torch::argsort(torch::argsort(x, int64_t{2}), int64_t{2});
}

Positions scaled(const Positions& positions, int64_t factor) {
  return Positions::scattered(positions.at() * factor);
}

std::unique_ptr<RowStore> make_store(const LayerPlan& plan, const CacheOptions& options) {
  const int64_t heads = plan.facts.heads;
  if (plan.is_paged)
    return std::make_unique<BlockStore>(options.batch, heads, plan.config.block_tokens);
  // a policy that evicts at every step holds its budget and the row that comes before one goes
  const bool is_steady = plan.retention && !plan.retention->after_prompt_only;
  return std::make_unique<SlotStore>(options.batch, heads, is_steady ? 1 : options.growth_rows);
}

}  // namespace

ManagedRows::ManagedRows(std::shared_ptr<const LayerPlan> plan,
                         const CacheOptions& options,
                         std::shared_ptr<ReplayLog> log)
    : plan_(std::move(plan)),
      options_(options),
      log_(std::move(log)),
      policy_(plan_->retention ? plan_->retention->make(plan_->config, plan_->facts) : nullptr),
      store_(make_store(*plan_, options)),
      lengths_(static_cast<size_t>(options.batch), 0),
      step_tokens_(static_cast<size_t>(options.batch), 0) {}

Positions ManagedRows::positions() const {
  if (has_dropped()) return Positions::scattered(kept());
  const auto device = store_->device();
  std::vector<Span> spans;
  for (const int64_t length : lengths_) spans.push_back({0, length});
  const bool even = std::ranges::count(lengths_, lengths_[0]) == options_.batch;
  return even ? Positions::range(0, lengths_[0], device) : Positions::ragged(spans, device);
}

bool ManagedRows::has_dropped(int64_t b) const {
  for (int64_t head = 0; head < plan_->facts.heads; ++head)
    if (store_->count(b, head) < lengths_[static_cast<size_t>(b)]) return true;
  return false;
}

bool ManagedRows::has_dropped() const {
  for (int64_t b = 0; b < options_.batch; ++b)
    if (has_dropped(b)) return true;
  return false;
}

at::Tensor ManagedRows::kept() const { return positions_in(*store_, index_column()); }

Positions ManagedRows::shifts() const {
  const auto at = kept();
  const auto rank = ranked(at.masked_fill(at.lt(0), INT64_MAX));
  const auto newest = at.amax(2, /*keepdim=*/true);
  const auto count = at.ge(0).sum(2, /*keepdim=*/true);
  // numbered backwards from the newest, which stays where it is: queries need not be turned
  return Positions::scattered((newest - count + 1 + rank - at).masked_fill(at.lt(0), 0));
}

at::Tensor ManagedRows::decoded(size_t stream, const at::Tensor& stored) const {
  const auto& [shape, codec] = plan_->streams[stream];
  auto rows = codec->decode(unfolded(stored, shape.heads), shape.width, type_);
  if (shape.is_turned && plan_->positions != RowPositions::kOriginal) {
    auto turn = shifts();
    if (plan_->positions == RowPositions::kInCacheRaw)
      turn = Positions::scattered(turn.at() + kept().clamp_min(0));
    rows = rotate(rows.to(torch::kFloat), turn, plan_->rope_theta).to(type_);
  }
  return rows;
}

Rows ManagedRows::read() const {
  Rows rows;
  rows.observer = is_watched() ? const_cast<ManagedRows*>(this) : nullptr;
  if (store_->empty()) return rows;
  rows.streams.resize(stream_slots_);
  copied_ = 0;
  for (size_t i = 0; i < plan_->streams.size(); ++i) {
    const auto stored = store_->column(i);
    auto& stream = rows.streams[plan_->streams[i].shape.index];
    stream = decoded(i, stored);
    if (!stream.is_alias_of(stored)) copied_ += static_cast<int64_t>(stream.nbytes());
    if (store_->copies_on_read()) copied_ += static_cast<int64_t>(stored.nbytes());
  }
  transient_peak_ = std::max(transient_peak_, copied_);
  rows.positions = positions();
  return rows;
}

void ManagedRows::rewind(const Positions& positions) {
  for (size_t b = 0; b < lengths_.size(); ++b) {
    const Span& span = positions.span(static_cast<int64_t>(b));
    step_tokens_[b] = span.count;
    if (span.count == 0 || span.first >= lengths_[b]) continue;
    if (has_dropped(static_cast<int64_t>(b))) {
      throw Error(ExitCode::kInternal,
                  {cat("position ", span.first, " after ", lengths_[b], " with retention ",
                       plan_->retention->name),
                   "KvCache", "what has been dropped cannot come back: fork() the cache before"});
    }
    store_->truncate(static_cast<int64_t>(b), span.first);
    lengths_[b] = span.first;
  }
}

std::vector<at::Tensor> ManagedRows::as_stored(const Positions& positions,
                                               std::vector<at::Tensor> fresh) const {
  if (!plan_->config.quantise_before_attend) return fresh;
  for (const auto& [shape, codec] : plan_->streams) {
    auto& rows = fresh[shape.index];
    const auto type = rows.scalar_type();
    rows = codec->decode(codec->encode(unturned(shape, positions, rows)), shape.width, type);
    if (is_stored_unturned(shape))
      rows = rotate(rows.to(torch::kFloat), positions, plan_->rope_theta).to(type);
  }
  return fresh;
}

at::Tensor ManagedRows::unturned(const StreamShape& shape,
                                 const Positions& positions,
                                 const at::Tensor& rows) const {
  if (!is_stored_unturned(shape)) return rows;
  return rotate(rows.to(torch::kFloat), scaled(positions, -1), plan_->rope_theta);
}

std::vector<at::Tensor> ManagedRows::encoded(const Positions& positions,
                                             const std::vector<at::Tensor>& fresh) const {
  std::vector<at::Tensor> out;
  at::Tensor keys;
  for (const auto& [shape, codec] : plan_->streams) {
    const auto rows = unturned(shape, positions, fresh[shape.index]);
    if (plan_->is_of_key(shape)) keys = with_more(keys, folded(rows, plan_->facts.heads));
    out.push_back(folded(codec->encode(rows), plan_->facts.heads));
  }
  if (!policy_) return out;
  const int64_t heads = plan_->facts.heads, seq = positions.seq();
  const auto at = positions.at().expand({options_.batch, seq}).view({options_.batch, 1, seq, 1});
  out.push_back(at.expand({-1, heads, -1, -1}).to(torch::kInt));
  if (policy_->figures() == 0) return out;
  auto figures = policy_->initial(keys);
  if (!figures.defined())
    figures = torch::zeros({options_.batch, heads, seq, policy_->figures()},
                           keys.options().dtype(torch::kFloat));
  out.push_back(figures);
  return out;
}

Rows ManagedRows::write(const Positions& positions, std::vector<at::Tensor> fresh) {
  const torch::NoGradGuard no_grad;
  rewind(positions);
  if (policy_ && plan_->config.evict == "before" && !store_->empty()) {
    evict(/*makes_room=*/true);
    record();
  }
  stream_slots_ = fresh.size();
  type_ = fresh[plan_->streams[0].shape.index].scalar_type();
  const auto rows = encoded(positions, fresh);
  Rows exact;
  const bool shows_exact = !plan_->config.quantise_before_attend;
  if (shows_exact) {
    exact = joined(read(), positions, fresh);
    note_counts();
  }
  store_->append(rows, positions);
  for (size_t b = 0; b < lengths_.size(); ++b) {
    const Span& span = positions.span(static_cast<int64_t>(b));
    if (span.count > 0) lengths_[b] = span.end();
  }
  return shows_exact ? exact : read();
}

void ManagedRows::note_counts() {
  if (!counts_before_.empty()) return;
  for (int64_t b = 0; b < options_.batch; ++b)
    for (int64_t head = 0; head < plan_->facts.heads; ++head)
      counts_before_.push_back(store_->count(b, head));
}

void ManagedRows::observe(const AttentionScores& scores) {
  const LayerFacts& facts = plan_->facts;
  const auto by_head = [&](const at::Tensor& x) {
    return x.view({x.size(0), facts.heads, facts.group, x.size(2), x.size(3)});
  };
  const int64_t rows = scores.logits.size(3), known = tally_.defined() ? tally_.size(2) : 0;
  if (rows > store_->rows()) note_counts();
  if (rows > known) {
    const auto more = torch::zeros({options_.batch, facts.heads, rows - known, policy_->figures()},
                                   scores.logits.options());
    tally_ = known > 0 ? torch::cat({tally_, more}, 2) : more;
  }
  policy_->observe({.logits = by_head(scores.logits),
                    .weights = by_head(scores.weights),
                    .q = by_head(scores.q),
                    .scale = scores.scale,
                    .queries = scores.queries,
                    .last = scores.last,
                    .rows = scores.rows},
                   tally_.narrow(2, 0, rows));
}

KeptRows ManagedRows::view() const {
  KeptRows out;
  out.at = kept();
  if (policy_->figures() > 0) out.figures = store_->column(figure_column());
  out.keys = [this] {
    at::Tensor keys;
    for (size_t i = 0; i < plan_->streams.size(); ++i)
      if (plan_->is_of_key(plan_->streams[i].shape))
        keys = with_more(keys, folded(decoded(i, store_->column(i)), plan_->facts.heads));
    return keys;
  };
  return out;
}

at::Tensor ManagedRows::protected_worth() const {
  const KeptRows rows = view();
  const auto newest = rows.at.amax(2, /*keepdim=*/true);
  const auto is_protected = rows.at.lt(plan_->sinks).logical_or(rows.at.gt(newest - plan_->recent));
  return policy_->worth(rows)
      .to(torch::kFloat)
      .nan_to_num(0)
      .masked_fill(is_protected, kInfinity)
      .masked_fill(rows.at.lt(0), -kInfinity);
}

bool ManagedRows::evicts_now() const {
  return !plan_->retention->after_prompt_only ||
         std::ranges::any_of(step_tokens_, [](int64_t count) { return count > 1; });
}

at::Tensor ManagedRows::losing() const {
  if (!plan_->retention->after_prompt_only) return {};
  return torch::tensor(step_tokens_).gt(1).view({-1, 1, 1}).to(store_->device());
}

void ManagedRows::settle() {
  if (!policy_ || store_->empty()) return;
  const torch::NoGradGuard no_grad;
  if (policy_->figures() > 0 && tally_.defined()) {
    const auto figures = store_->column(figure_column());
    store_->set_column(figure_column(),
                       policy_->merged(figures, by_slot(tally_, counts_before_, store_->rows())));
  }
  counts_before_.clear();
  tally_.reset();
  if (evicts_now()) evict(/*makes_room=*/false);
  policy_->end_step();
  record();
}

void ManagedRows::record() const {
  if (log_) log_->record(*std::ranges::max_element(lengths_), kept());
}

void ManagedRows::merge_values(const at::Tensor& goes) {
  if (!plan_->retention->merges_values) return;
  constexpr size_t kValues = 1;
  const auto& [shape, codec] = plan_->streams[kValues];
  const auto stored = store_->column(kValues);
  const auto slots = chosen_slots(goes).clamp_min(0).unsqueeze(3);
  const auto gone = codec->decode(stored.gather(2, slots.expand({-1, -1, -1, stored.size(3)})),
                                  shape.width, at::kFloat);
  const auto keys =
      head_keys(plan_->config.seed, "merging", plan_->facts.layer, plan_->facts.heads);
  const auto more = left_to_others(kept(), store_->column(figure_column()).select(3, 0), goes, gone,
                                   keys, plan_->config.merge_tokens);
  // rows that get nothing stay as they are stored
  const auto changed = more.ne(0).any(3).nonzero();
  const c10::List<std::optional<at::Tensor>> place(
      {changed.select(1, 0), changed.select(1, 1), changed.select(1, 2)});
  const auto rows = codec->decode(stored.index(place), shape.width, at::kFloat) + more.index(place);
  stored.index_put_(place, codec->encode(rows.to(type_)));
  if (store_->copies_on_read()) store_->set_column(kValues, stored);
}

std::vector<int64_t> ManagedRows::limits(bool makes_room) const {
  std::vector<int64_t> out;
  for (const int64_t coming : step_tokens_) {
    for (int64_t head = 0; head < plan_->facts.heads; ++head) {
      const int64_t budget = plan_->budget_of(head);
      out.push_back(makes_room ? std::max(budget - coming, plan_->sinks + plan_->recent) : budget);
    }
  }
  return out;
}

void ManagedRows::evict(bool makes_room) {
  const auto limits = this->limits(makes_room);
  const int64_t excess = most_above(*store_, limits, plan_->shares_heads);
  if (excess <= 0) return;
  const int64_t reserved = store_->bytes_reserved();
  const auto most = torch::tensor(limits).view({-1, plan_->facts.heads, 1}).to(store_->device());
  if (excess == 1 && !plan_->shares_heads) {
    evict_one(protected_worth(), most);
  } else {
    evict_many(protected_worth(), most);
  }
  transient_peak_ = std::max(transient_peak_, copied_ + reserved - store_->bytes_reserved());
}

void ManagedRows::evict_one(const at::Tensor& worth, const at::Tensor& limits) {
  const auto at = kept(), is_there = at.ge(0);
  const auto victims = slots_of_least_worth(at, worth);
  auto wanted = is_there.sum(2).gt(limits.squeeze(2));
  if (const auto some = losing(); some.defined()) wanted = wanted.logical_and(some.squeeze(2));
  merge_values(torch::zeros_like(is_there).scatter_(2, victims.unsqueeze(2), wanted.unsqueeze(2)));
  store_->drop_one(victims, wanted);
}

void ManagedRows::evict_many(const at::Tensor& worth, const at::Tensor& limits) {
  const auto at = kept();
  const auto floor = plan_->shares_heads ? std::optional(plan_->head_floor) : std::nullopt;
  auto goes = rows_of_highest_worth(at, worth, limits, floor).logical_not().logical_and(at.ge(0));
  if (const auto some = losing(); some.defined()) goes = goes.logical_and(some);
  merge_values(goes);
  store_->drop(goes);
}

int64_t ManagedRows::bytes_used() const { return ledger().resident(); }

int64_t ManagedRows::bytes_reserved() const {
  return store_->bytes_reserved() + (policy_ ? policy_->state_bytes() : 0);
}

ByteLedger ManagedRows::ledger() const {
  ByteLedger out;
  const int64_t rows = store_->total();
  out.codec_metadata = rows * plan_->codec_metadata_bytes();
  out.payload = -out.codec_metadata;
  for (size_t i = 0; i < plan_->streams.size(); ++i) out.payload += rows * store_->row_bytes(i);
  if (policy_) {
    out.index = rows * store_->row_bytes(index_column());
    out.policy_state = policy_->state_bytes();
    if (policy_->figures() > 0) out.policy_state += rows * store_->row_bytes(figure_column());
  }
  out.reserved = bytes_reserved();
  out.transient_peak = transient_peak_;
  return out;
}

void ManagedRows::clear() {
  store_->clear();
  if (policy_) policy_->clear();
  std::ranges::fill(lengths_, 0);
  tally_.reset();
  counts_before_.clear();
}

std::unique_ptr<Memory> ManagedRows::clone() const {
  auto out = std::make_unique<ManagedRows>(plan_, options_, nullptr);
  if (policy_) out->policy_ = policy_->clone();
  out->store_ = store_->clone();
  out->lengths_ = lengths_;
  out->step_tokens_ = step_tokens_;
  out->stream_slots_ = stream_slots_;
  out->type_ = type_;
  out->transient_peak_ = transient_peak_;
  return out;
}

}  // namespace kvsmith
