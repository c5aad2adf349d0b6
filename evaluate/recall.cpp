#include "evaluate/recall.h"

#include <algorithm>

#include <torch/types.h>

#include "core/error.h"
#include "core/random.h"
#include "core/text.h"
#include "evaluate/decoding.h"
#include "ops/losses.h"

namespace kvsmith {
namespace {

/// passage ‖ filler ‖ passage, [samples, 2 * passage + distance]. Sample i repeats the same passage
/// at every distance.
at::Tensor samples_of(const CorpusSplit& split, const RecallOptions& options, int64_t distance) {
  const int64_t length = 2 * options.passage + distance;
  auto out = torch::empty({options.samples, length}, torch::kLong);
  std::vector<int32_t> ids;
  const auto put = [&](int64_t row, int64_t at, uint64_t from, int64_t count) {
    ids.resize(static_cast<size_t>(count));
    split.read(from, ids);
    out[row].narrow(0, at, count).copy_(torch::tensor(ids, torch::kInt));
  };
  for (int64_t i = 0; i < options.samples; ++i) {
    const auto sample = static_cast<uint64_t>(i);
    const uint64_t places = split.tokens() - static_cast<uint64_t>(options.longest) + 1;
    const uint64_t passage = hash_of(options.seed, "recall passage", sample) % places;
    const uint64_t filler = hash_of(options.seed, "recall filler", sample) % places;
    put(i, 0, passage, options.passage);
    if (distance > 0) put(i, options.passage, filler, distance);
    put(i, options.passage + distance, passage, options.passage);
  }
  return out;
}

RecallPoint probe(DecoderImpl& model,
                  const CorpusSplit& split,
                  const RecallOptions& options,
                  int64_t distance) {
  const auto tokens = samples_of(split, options, distance).to(model.device());
  const int64_t again = options.passage + distance;
  auto cache = model.make_cache({.batch = options.samples, .initial_rows = tokens.size(1)});
  RecallPoint point{.distance = distance};
  // the first token of a passage follows from nothing, so the others are scored
  const auto scored = static_cast<double>(options.samples * (options.passage - 1));
  decode(model, tokens, cache, [&](int64_t t, const at::Tensor& logits) {
    if (t + 1 >= tokens.size(1)) return;
    const auto target = tokens.select(1, t + 1);
    const bool first = t + 1 < options.passage, repeated = t >= again;
    if (!first && !repeated) return;
    const double nll = token_losses(logits, target).to(torch::kDouble).sum().item<double>();
    (first ? point.nll_first : point.nll_again) += nll / scored;
    if (repeated) point.accuracy += logits.argmax(1).eq(target).sum().item<double>() / scored;
  });
  return point;
}

}  // namespace

void check_recall(const CorpusSplit& split, const RecallOptions& options) {
  const int64_t shortest = 2 * options.passage;
  if (options.longest < shortest) {
    throw Error(ExitCode::kUsage,
                {cat("texts of at most ", options.longest, " tokens do not hold a passage of ",
                     options.passage, " twice"),
                 "recall", cat("give a --context of at least ", shortest, ", or no --recall")});
  }
  if (split.tokens() < static_cast<uint64_t>(options.longest)) {
    throw Error(ExitCode::kBadData,
                {cat("the split has ", split.tokens(), " tokens, a sample ", options.longest),
                 "recall", "use a longer split or a shorter --context"});
  }
}

std::vector<RecallPoint> recall_curve(DecoderImpl& model,
                                      const CorpusSplit& split,
                                      const RecallOptions& options) {
  check_recall(split, options);
  const torch::InferenceMode inference;
  constexpr int64_t kShortest = 32;
  std::vector<int64_t> distances = {0};
  for (int64_t d = kShortest; 2 * options.passage + d <= options.longest; d *= 2)
    distances.push_back(d);
  std::vector<RecallPoint> curve;
  for (const int64_t distance : distances) curve.push_back(probe(model, split, options, distance));
  return curve;
}

}  // namespace kvsmith
