#include "serve/joint_step.h"

#include <algorithm>

#include <torch/types.h>

#include "serve/stacked_rows.h"
#include "serve/stacked_states.h"

namespace kvsmith {
namespace {

/// Caches of batch 1 as one cache for a step.
class JointCache {
 public:
  JointCache(const DecoderImpl& model, const std::vector<NextToken>& next) : cache_({}) {
    auto places = std::make_shared<std::vector<Positions>>();
    for (const auto& one : next)
      places->push_back(Positions::range(one.position, 1, model.device()));
    const KvGraph& graph = model.graph();
    std::vector<std::unique_ptr<Memory>> layers;
    for (int64_t layer = 0; layer < graph.size(); ++layer)
      layers.push_back(graph.is_owner(layer) ? stacked(graph[layer], layer, next, places)
                                             : nullptr);
    cache_ = KvCache(std::move(layers));
  }

  KvCache& cache() { return cache_; }
  /// After the step: what is not written through goes back to its sequence.
  void hand_back() {
    for (const auto& states : states_) states->hand_back();
  }

 private:
  std::unique_ptr<Memory> stacked(const LayerSpec& spec,
                                  int64_t layer,
                                  const std::vector<NextToken>& next,
                                  const std::shared_ptr<const std::vector<Positions>>& places) {
    if (next[0].cache->has_rows(layer)) {
      std::vector<RowMemory*> members;
      for (const auto& one : next) members.push_back(&one.cache->rows_of(layer));
      return std::make_unique<StackedRows>(std::move(members), places);
    }
    std::vector<Memory*> members;
    for (const auto& one : next) members.push_back(&one.cache->of(layer));
    states_.push_back(stack_states(spec, members, places));
    return states_.back()->stacked();
  }

  KvCache cache_;
  std::vector<std::unique_ptr<StackedStates>> states_;
};

}  // namespace

at::Tensor step_together(DecoderImpl& model, const std::vector<NextToken>& next) {
  const torch::NoGradGuard no_grad;
  std::vector<int64_t> tokens;
  std::vector<Span> spans;
  for (const auto& one : next) {
    tokens.push_back(one.token);
    spans.push_back({one.position, 1});
  }
  const auto batch =
      torch::tensor(tokens, torch::kLong).unsqueeze(1).to(model.device());  // [sequences, 1]
  const auto even = std::ranges::all_of(spans, [&](const Span& span) { return span == spans[0]; });
  const auto positions = even ? Positions::range(spans[0].first, 1, model.device())
                              : Positions::ragged(spans, model.device());
  if (next.size() == 1) return model.step(batch, positions, *next[0].cache).select(1, 0);
  JointCache joint(model, next);
  auto hidden = model.step(batch, positions, joint.cache());
  joint.hand_back();
  return hidden.select(1, 0);
}

}  // namespace kvsmith
