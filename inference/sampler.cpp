#include "inference/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include <torch/types.h>

#include "core/error.h"
#include "core/random.h"
#include "core/text.h"

namespace kvsmith {

void check(const SamplingOptions& options) {
  const auto refuse = [](const std::string& what, const std::string& expected) {
    throw Error(ExitCode::kUsage, {what, "sampling", "expected " + expected});
  };
  if (!(options.temperature >= 0 && options.temperature <= 100)) {
    refuse(cat("temperature ", options.temperature), "0 (greedy) to 100");
  }
  if (options.top_k < 0) refuse(cat("top-k ", options.top_k), "0 (off) or more");
  if (!(options.top_p > 0 && options.top_p <= 1))
    refuse(cat("top-p ", options.top_p), "above 0, at most 1");
}

int64_t sample(const at::Tensor& logits,
               const SamplingOptions& options,
               int64_t sequence,
               int64_t position) {
  if (logits.isnan().any().item<bool>()) {
    throw Error(ExitCode::kNumerical, {"a logit is not a number", cat("position ", position),
                                       "the checkpoint may be damaged, or bf16 too coarse for it"});
  }
  if (options.temperature == 0) return logits.argmax().item<int64_t>();

  const float* score = logits.const_data_ptr<float>();
  std::vector<int64_t> order(static_cast<size_t>(logits.numel()));
  std::iota(order.begin(), order.end(), 0);
  // ties go to the lower id, so the order does not depend on the sorting algorithm
  std::ranges::sort(order, [&](int64_t a, int64_t b) {
    return score[a] != score[b] ? score[a] > score[b] : a < b;
  });
  if (options.top_k > 0 && options.top_k < logits.numel())
    order.resize(static_cast<size_t>(options.top_k));

  std::vector<double> weight;
  for (const int64_t id : order) {
    weight.push_back(
        std::exp(static_cast<double>(score[id] - score[order[0]]) / options.temperature));
  }
  double mass = std::accumulate(weight.begin(), weight.end(), 0.0);
  if (options.top_p < 1) {
    double reached = 0;
    size_t kept = 0;
    while (kept < weight.size() && reached < options.top_p * mass) reached += weight[kept++];
    weight.resize(std::max<size_t>(1, kept));
    mass = reached;
  }
  double left = uniform(options.seed, "sample", static_cast<uint64_t>(sequence),
                        static_cast<uint64_t>(position)) *
                mass;
  for (size_t i = 0; i < weight.size(); ++i) {
    left -= weight[i];
    if (left < 0) return order[i];
  }
  return order[weight.size() - 1];
}

}  // namespace kvsmith
