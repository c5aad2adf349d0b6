#include "cache/allocators.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace kvsmith {
namespace {

/// The line of PyramidKV (arXiv:2406.02069), rounded so that the sum is exact.
std::vector<int64_t> pyramid(
    double beta, int64_t mean, int64_t least, int64_t most, int64_t layers) {
  // from 2 m - m / beta down to m / beta above what is protected; the first layer gets no more than
  // there is, and the last one what that leaves
  const auto spare = static_cast<double>(mean - least);
  const double high =
      std::min(2 * spare - spare / beta, static_cast<double>(std::max(most, mean) - least));
  const double low = 2 * spare - high;
  std::vector<int64_t> out;
  double due = 0;
  int64_t given = 0;
  for (int64_t i = 0; i < layers; ++i) {
    due += high - (high - low) * static_cast<double>(i) / static_cast<double>(layers - 1);
    const int64_t share = std::llround(due) - given;
    given += share;
    out.push_back(least + share);
  }
  return out;
}

}  // namespace

void spread_over_layers(const CacheConfig& config,
                        int64_t mean,
                        int64_t least,
                        int64_t most,
                        const std::vector<LayerPlan*>& layers) {
  std::vector<int64_t> budgets(layers.size(), mean);
  if (config.allocator == "pyramid" && layers.size() > 1)
    budgets = pyramid(config.pyramid_beta, mean, least, most, static_cast<int64_t>(layers.size()));
  for (size_t i = 0; i < layers.size(); ++i) {
    layers[i]->budget = budgets[i];
    layers[i]->head_floor = std::llround(config.ada_floor * static_cast<double>(budgets[i]));
  }
}

void spread_by_gates(const HeadGatesFile& gates,
                     int64_t mean,
                     int64_t context,
                     const std::vector<LayerPlan*>& layers) {
  struct Head {
    double gate;
    int64_t* budget;
  };
  std::vector<Head> heads;
  int64_t streaming = 0;
  for (LayerPlan* plan : layers) {
    streaming = plan->sinks + plan->recent;
    plan->budget = mean;
    plan->head_budgets.assign(static_cast<size_t>(plan->facts.heads), streaming);
    const auto& learned =
        *std::ranges::find(gates.layers, plan->facts.layer, &HeadGatesFile::Layer::layer);
    for (size_t head = 0; head < plan->head_budgets.size(); ++head)
      heads.push_back({learned.gates[head], &plan->head_budgets[head]});
  }
  const auto count = static_cast<int64_t>(heads.size());
  const int64_t spare = context - streaming;
  const int64_t full =
      spare > 0 ? std::clamp<int64_t>(count * (mean - streaming) / spare, 0, count) : count;
  std::ranges::stable_sort(heads, std::ranges::greater(), &Head::gate);
  for (int64_t i = 0; i < full; ++i)
    *heads[static_cast<size_t>(i)].budget = std::numeric_limits<int64_t>::max();
}

}  // namespace kvsmith
