#include "evaluate/decode_speed.h"

#include <algorithm>
#include <cmath>

#include <torch/types.h>

#include "core/stopwatch.h"

namespace kvsmith {
namespace {

constexpr int64_t kWarmUp = 2;  // steps before those that are timed

/// Rows of `options.context` tokens in every memory of rows.
void fill(DecoderImpl& model, KvCache& cache, const SpeedOptions& options) {
  const KvGraph& graph = model.graph();
  const auto type = torch::dtype(model.compute_type()).device(model.device());
  const auto positions = Positions::range(0, options.context, model.device());
  for (int64_t layer = 0; layer < graph.size(); ++layer) {
    if (!graph.is_owner(layer) || !has_rows(graph[layer])) continue;
    std::vector<at::Tensor> rows(2);
    for (const auto& shape : stream_shapes(model.config(), graph, layer))
      rows[shape.index] =
          torch::randn({options.batch, shape.heads, options.context, shape.width}, type);
    auto& memory = cache.rows_of(layer);
    memory.write(positions, std::move(rows));
    memory.settle();
  }
}

at::Tensor noise_tokens(const DecoderImpl& model, int64_t batch, int64_t count) {
  return torch::randint(model.config().vocab_size, {batch, count}, torch::kLong).to(model.device());
}

}  // namespace

double DecodeSpeed::percentile(double share) const {
  const auto last = static_cast<double>(seconds.size() - 1);
  return seconds[static_cast<size_t>(std::lround(share * last))];
}

DecodeSpeed decode_speed(DecoderImpl& model, const CachePlan& plan, const SpeedOptions& options) {
  const torch::InferenceMode inference;
  // as much storage as the rows take in the end, as largest_batch() counts, and no more copies
  const int64_t held = plan.budget() > 0 ? plan.budget() : options.context;
  auto cache = plan.make(model, {.batch = options.batch,
                                 .initial_rows = options.context + options.tokens + kWarmUp,
                                 .growth_rows = held + options.tokens + kWarmUp});
  fill(model, cache, options);
  DecodeSpeed out;
  out.batch = options.batch;
  for (int64_t i = 0; i < kWarmUp + options.tokens; ++i) {
    const auto token = noise_tokens(model, options.batch, 1);
    const Stopwatch watch;
    const auto hidden =
        model.step(token, Positions::range(options.context + i, 1, model.device()), cache);
    // the choice of a token waits for the device
    model.logits(hidden).argmax(-1).cpu();
    if (i >= kWarmUp) out.seconds.push_back(watch.seconds());
    out.reserved_bytes = std::max(out.reserved_bytes, cache.bytes_reserved());
  }
  std::ranges::sort(out.seconds);
  out.resident_bytes = cache.bytes_used() / options.batch;
  return out;
}

double first_token_seconds(DecoderImpl& model, const CachePlan& plan, int64_t context) {
  const torch::InferenceMode inference;
  auto cache = plan.make(model, {.batch = 1, .initial_rows = context});
  const auto tokens = noise_tokens(model, 1, context);
  const Stopwatch watch;
  const auto hidden = model.step(tokens, Positions::range(0, context, model.device()), cache);
  model.logits(hidden.select(1, context - 1)).argmax(-1).cpu();
  return watch.seconds();
}

int64_t largest_batch(const CachePlan& plan, int64_t context, int64_t tokens, int64_t memory) {
  return memory / std::max<int64_t>(1, plan.bytes(context + tokens + kWarmUp, context));
}

std::optional<DecodeSpeed> largest_batch_speed(DecoderImpl& model,
                                               const CachePlan& plan,
                                               SpeedOptions options,
                                               int64_t memory) {
  options.batch = largest_batch(plan, options.context, options.tokens, memory);
  while (options.batch > 0) {
    auto speed = decode_speed(model, plan, options);
    if (speed.reserved_bytes <= memory) return speed;
    // storage that is rounded up, such as KIVI's, is more than the formula's rows
    const int64_t fits = options.batch * memory / speed.reserved_bytes;
    options.batch = std::min(options.batch - 1, std::max<int64_t>(1, fits));
  }
  return std::nullopt;
}

}  // namespace kvsmith
