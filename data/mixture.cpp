#include "data/mixture.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

constexpr uint64_t kCycle = 1024;  ///< draws in which every source gets its exact share
constexpr uint64_t kMixtureRound = UINT64_MAX;

[[noreturn]] void refuse(const std::string& what, const std::string& remedy) {
  throw Error(ExitCode::kConfig, {.what = what, .where = "batches", .remedy = remedy});
}

/// Slots of a cycle for each weight, by largest remainder; their sum is kCycle.
std::vector<uint64_t> share_cycle(const std::vector<double>& weights) {
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<uint64_t> slots;
  std::vector<double> remainders;
  for (const double weight : weights) {
    const double exact = weight / total * kCycle;
    slots.push_back(static_cast<uint64_t>(exact));
    remainders.push_back(exact - std::floor(exact));
  }
  std::vector<size_t> order(weights.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater{}, [&](size_t i) { return remainders[i]; });
  const uint64_t left = kCycle - std::accumulate(slots.begin(), slots.end(), uint64_t{0});
  for (uint64_t i = 0; i < left; ++i) ++slots[order[i % order.size()]];
  return slots;
}

}  // namespace

Mixture::Mixture(std::vector<uint64_t> items,
                 const std::vector<double>& weights,
                 bool shuffle,
                 uint64_t seed)
    : items_(std::move(items)), shuffle_(shuffle), seed_(seed) {
  if (items_.empty()) refuse("no corpus to read", "name at least one");
  for (const double weight : weights) {
    if (!std::isfinite(weight) || weight <= 0)
      refuse(cat("weight ", weight), "weights are positive numbers");
  }
  slots_ = share_cycle(weights);
  if (const auto none = std::ranges::find(slots_, 0u); none != slots_.end()) {
    refuse(cat("weight ", weights[static_cast<size_t>(none - slots_.begin())], " is below 1/",
               kCycle, " of their sum"),
           "raise it or leave the corpus out");
  }
  std::vector<size_t> owners;
  for (size_t i = 0; i < slots_.size(); ++i) owners.insert(owners.end(), slots_[i], i);
  std::vector<uint64_t> dealt(slots_.size());
  for (uint64_t i = 0; i < kCycle; ++i) {
    const size_t owner = owners[permute(i, kCycle, seed_, kMixtureRound)];
    cycle_.push_back({.source = owner, .rank = dealt[owner]++});
  }
}

Mixture::Draw Mixture::at(uint64_t position) const {
  const auto [source, rank] = cycle_[position % kCycle];
  const uint64_t draw = position / kCycle * slots_[source] + rank, items = items_[source];
  // Another order for each source, so that equally large ones do not run in step.
  return {source,
          shuffle_ ? permute(draw % items, items, seed_ + source, draw / items) : draw % items};
}

uint64_t Mixture::items() const {
  return std::accumulate(items_.begin(), items_.end(), uint64_t{0});
}

}  // namespace kvsmith
