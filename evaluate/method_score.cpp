#include "evaluate/method_score.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include <torch/types.h>

#include "cache/cache_options.h"
#include "core/error.h"
#include "core/random.h"
#include "core/text.h"
#include "ops/losses.h"

namespace kvsmith {
namespace {

using Json = nlohmann::ordered_json;

/// Bytes of rows that one token's attention reads: those of a shared layer once for each reader.
int64_t bytes_read(const DecoderImpl& model, KvCache& cache) {
  int64_t sum = 0;
  for (int64_t layer = 0; layer < model.graph().size(); ++layer)
    for (const int64_t source : model.graph().sources(layer)) {
      if (!model.graph().is_owner(source)) continue;
      sum += cache.of(source).bytes_read();
    }
  return sum;
}

/// Hidden states, [batch, seq, hidden], with everything kept: in one pass, but in steps where
/// layers read ahead, since what they see depends on the tokens of a step.
at::Tensor read_whole(DecoderImpl& model,
                      const at::Tensor& inputs,
                      const std::vector<int64_t>& steps) {
  const int64_t batch = inputs.size(0), seq = inputs.size(1);
  if (!model.graph().is_cyclic()) {
    auto transient = model.make_transient();
    return model.step(inputs, Positions::range(0, seq, model.device()), transient);
  }
  auto cache = model.make_cache({.batch = batch, .initial_rows = seq});
  std::vector<at::Tensor> hidden;
  int64_t first = 0;
  for (const int64_t count : steps) {
    hidden.push_back(model.step(inputs.narrow(1, first, count),
                                Positions::range(first, count, model.device()), cache));
    first += count;
  }
  return torch::cat(hidden, 1);
}

}  // namespace

std::vector<int64_t> step_lengths(int64_t tokens, int64_t prefill, int64_t chunk) {
  std::vector<int64_t> out;
  for (int64_t done = 0; done < tokens; done += out.back()) {
    const int64_t wanted = done == 0 && prefill > 0 ? prefill : chunk;
    out.push_back(std::min(wanted, tokens - done));
  }
  return out;
}

double MethodScore::read(DecoderImpl& model,
                         const at::Tensor& inputs,
                         const at::Tensor& targets,
                         const std::vector<int64_t>& steps,
                         bool for_replay) {
  const int64_t batch = inputs.size(0), seq = inputs.size(1);
  const auto full = read_whole(model, inputs, steps);
  const size_t first_window = windows_.size();
  windows_.resize(first_window + static_cast<size_t>(batch));
  const double before = nll_;
  auto cache = plan_.make(model, {.batch = batch}, for_replay ? &logs_ : nullptr);
  int64_t first = 0;
  for (const int64_t count : steps) {
    const auto hidden = model.step(inputs.narrow(1, first, count),
                                   Positions::range(first, count, model.device()), cache);
    measure(model, cache, batch);
    for (int64_t i = 0; i < count; ++i) {
      const auto target = targets.select(1, first + i);
      if (target.lt(0).all().item<bool>()) continue;
      score(model.logits(hidden.select(1, i)), model.logits(full.select(1, first + i)), target,
            first + i);
    }
    first += count;
  }
  const int64_t bytes = cache.bytes_used() / batch, formula = plan_.bytes(seq, steps[0]);
  if (plan_.depends_on_text() ? bytes > formula : bytes != formula) {
    throw Error(ExitCode::kInternal,
                {cat("the cache holds ", bytes, " bytes after ", seq, " tokens, the formula says ",
                     formula),
                 method_name(plan_), "report this: inference path and formula disagree"});
  }
  if (seq > end_tokens_) {
    end_tokens_ = seq;
    at_end_ = cache.ledger();
    for (int64_t* part : {&at_end_.payload, &at_end_.codec_metadata, &at_end_.index,
                          &at_end_.policy_state, &at_end_.reserved})
      *part /= batch;
  }
  return nll_ - before;
}

void MethodScore::score(const at::Tensor& logits,
                        const at::Tensor& full_logits,
                        const at::Tensor& target,
                        int64_t position) {
  const auto scored = target.ge(0).to(torch::kDouble);
  const auto log_q = torch::log_softmax(logits, -1), log_p = torch::log_softmax(full_logits, -1);
  const auto index = target.clamp_min(0).unsqueeze(1);
  const auto loss_of = [&](const at::Tensor& log) {
    return (log.gather(1, index).squeeze(1).neg().to(torch::kDouble) * scored).cpu();
  };
  const auto losses = loss_of(log_q), full_losses = loss_of(log_p);
  divergence_ +=
      ((log_p.exp() * (log_p - log_q)).sum(1).to(torch::kDouble) * scored).sum().item<double>();
  same_top_ += (log_q.argmax(1).eq(log_p.argmax(1)).to(torch::kDouble) * scored)
                   .sum()
                   .to(torch::kLong)
                   .item<int64_t>();
  const auto bin = static_cast<size_t>(std::bit_width(static_cast<uint64_t>(position + 1)) - 1);
  while (bins_.size() <= bin) {
    const int64_t from = int64_t{1} << bins_.size();
    bins_.push_back({from, 2 * from, 0, 0});
  }
  const auto ids = target.cpu().contiguous();
  const auto* at = ids.const_data_ptr<int64_t>();
  const auto* method = losses.const_data_ptr<double>();
  const auto* whole = full_losses.const_data_ptr<double>();
  const auto batch = static_cast<size_t>(target.size(0));
  for (size_t b = 0; b < batch; ++b) {
    if (at[b] < 0) continue;
    WindowLoss& window = windows_[windows_.size() - batch + b];
    window.method += method[b];
    window.full += whole[b];
    window.tokens += 1;
    nll_ += method[b];
    full_nll_ += whole[b];
    bins_[bin].nll += method[b];
    ++bins_[bin].tokens;
    ++tokens_;
  }
}

void MethodScore::measure(const DecoderImpl& model, KvCache& cache, int64_t batch) {
  const ByteLedger ledger = cache.ledger();
  const int64_t resident = ledger.resident() / batch;
  resident_sum_ += static_cast<double>(resident);
  read_sum_ += static_cast<double>(bytes_read(model, cache)) / static_cast<double>(batch);
  ++measured_;
  resident_max_ = std::max(resident_max_, resident);
  peak_ = std::max(peak_, (ledger.reserved + ledger.transient_peak) / batch);
}

double MethodScore::replay(DecoderImpl& model,
                           const at::Tensor& inputs,
                           const at::Tensor& targets) {
  auto memory = model.make_transient();
  for (size_t layer = 0; layer < logs_.size(); ++layer)
    if (logs_[layer])
      memory.replace(static_cast<int64_t>(layer),
                     std::make_unique<ReplayRows>(logs_[layer]->seen().to(model.device())));
  const int64_t seq = inputs.size(1);
  const auto hidden = model.step(inputs, Positions::range(0, seq, model.device()), memory);
  double sum = 0;
  for (int64_t t = 0; t < seq; ++t) {
    const auto target = targets.select(1, t);
    const auto losses = token_losses(model.logits(hidden.select(1, t)), target.clamp_min(0));
    sum += losses.masked_fill(target.lt(0), 0).to(torch::kDouble).sum().item<double>();
  }
  return sum;
}

std::pair<double, double> MethodScore::interval() const {
  constexpr size_t kSamples = 1000;
  std::vector<double> means;
  for (size_t sample = 0; sample < kSamples; ++sample) {
    double difference = 0, tokens = 0;
    for (size_t i = 0; i < windows_.size(); ++i) {
      const auto drawn = hash_of(0, "bootstrap", sample, i) % windows_.size();
      difference += windows_[drawn].method - windows_[drawn].full;
      tokens += windows_[drawn].tokens;
    }
    // windows of chats may have nothing that is scored
    means.push_back(tokens > 0 ? difference / tokens : 0);
  }
  std::ranges::sort(means);
  const double full = full_nll_ / static_cast<double>(tokens_);
  return {std::exp(full + means[kSamples / 40]),
          std::exp(full + means[kSamples - 1 - kSamples / 40])};
}

Json MethodScore::json() const {
  const CacheConfig& config = plan_.config();
  const auto count = static_cast<double>(tokens_);
  Json json;
  Json& method = json["method"] = {{"name", method_name(plan_)}};
  CacheConfig::fields(
      config, [&](const Key& key, const auto& value) { method[std::string(key.name)] = value; });
  method["budget_tokens"] = plan_.budget();
  const auto mean = [&](double sum) { return std::round(sum / static_cast<double>(measured_)); };
  json["resident"] = {{"mean_bytes", mean(resident_sum_)},
                      {"max_bytes", resident_max_},
                      {"peak_bytes", peak_},
                      {"payload", at_end_.payload},
                      {"codec_metadata", at_end_.codec_metadata},
                      {"index", at_end_.index},
                      {"policy_state", at_end_.policy_state},
                      {"reserved", at_end_.reserved},
                      {"read_bytes_per_token", mean(read_sum_)}};
  json["perplexity_full"] = std::exp(full_nll_ / count);
  json["kl_to_full"] = divergence_ / count;
  json["top1_agreement"] = static_cast<double>(same_top_) / count;
  const auto [low, high] = interval();
  json["perplexity_interval"] = {low, high};
  for (const Bin& bin : bins_)
    if (bin.tokens > 0)
      json["nll_by_position"].push_back(
          {{"from", bin.from}, {"to", bin.to}, {"nll", bin.nll / static_cast<double>(bin.tokens)}});
  return json;
}

}  // namespace kvsmith
