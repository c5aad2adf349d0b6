#include "serve/stacked_states.h"

#include <algorithm>

#include <torch/types.h>

#include "core/error.h"

namespace kvsmith {
namespace {

using Places = std::shared_ptr<const std::vector<Positions>>;

/// The tokens that a sequence had before the step.
Span past_of(const Positions& place) { return {0, place.span(0).first}; }

/// One tensor for each kind of state; zeros for sequences that have none.
std::vector<at::Tensor> stacked_tensors(const std::vector<std::vector<at::Tensor>>& states) {
  std::vector<at::Tensor> out;
  const auto some = std::ranges::find_if_not(states, &std::vector<at::Tensor>::empty);
  if (some == states.end()) return out;
  for (size_t i = 0; i < some->size(); ++i) {
    std::vector<at::Tensor> parts;
    for (const auto& state : states)
      parts.push_back(state.empty() ? torch::zeros_like((*some)[i]) : state[i]);
    out.push_back(torch::cat(parts));
  }
  return out;
}

std::vector<at::Tensor> of_member(const std::vector<at::Tensor>& state, size_t member) {
  std::vector<at::Tensor> out;
  for (const auto& tensor : state) out.push_back(tensor.narrow(0, static_cast<int64_t>(member), 1));
  return out;
}

class States final : public StackedStates {
 public:
  States(std::vector<StateMemory*> members, Places places)
      : members_(std::move(members)), places_(std::move(places)) {}

  std::unique_ptr<Memory> stacked() override {
    auto out =
        std::make_unique<StateMemory>(CacheOptions{.batch = static_cast<int64_t>(members_.size())});
    std::vector<std::vector<at::Tensor>> states;
    std::vector<Span> past;
    for (size_t i = 0; i < members_.size(); ++i) {
      states.push_back(members_[i]->state());
      past.push_back(past_of((*places_)[i]));
    }
    const auto state = stacked_tensors(states);
    if (!state.empty()) out->advance(Positions::ragged(std::move(past)), state);
    together_ = out.get();
    return out;
  }

  void hand_back() override {
    for (size_t i = 0; i < members_.size(); ++i)
      members_[i]->advance((*places_)[i], of_member(together_->state(), i));
  }

 private:
  std::vector<StateMemory*> members_;
  Places places_;
  StateMemory* together_ = nullptr;
};

class Windows final : public StackedStates {
 public:
  Windows(LayerSpec spec, std::vector<WindowAndState*> members, Places places)
      : spec_(std::move(spec)), members_(std::move(members)), places_(std::move(places)) {}

  std::unique_ptr<Memory> stacked() override {
    const CacheOptions options{.batch = static_cast<int64_t>(members_.size()),
                               .initial_rows = longest_ring() + 1,
                               .growth_rows = 1};
    auto out = std::make_unique<WindowAndState>(options, spec_.window, spec_.sinks);
    std::vector<std::vector<at::Tensor>> states;
    for (const auto* member : members_) states.push_back(member->state);
    out->state = stacked_tensors(states);
    fill(out->ring);
    together_ = out.get();
    return out;
  }

  void hand_back() override {
    const Rows rows = together_->ring.read();
    const auto batch = static_cast<int64_t>(members_.size());
    const auto at = rows.positions.at().expand({batch, -1});
    for (size_t i = 0; i < members_.size(); ++i) {
      const auto own = of_member(rows.streams, i);
      const auto slot =
          at[static_cast<int64_t>(i)].eq((*places_)[i].span(0).first).nonzero().flatten();
      std::vector<at::Tensor> newest;
      for (const auto& stream : own) newest.push_back(stream.index_select(2, slot));
      members_[i]->ring.write((*places_)[i], std::move(newest));
      const auto state = of_member(together_->state, i);
      for (size_t s = 0; s < state.size(); ++s) members_[i]->state[s].copy_(state[s]);
    }
  }

 private:
  int64_t rows_of(size_t member) const { return spec_.rows((*places_)[member].span(0).first); }

  int64_t longest_ring() const {
    int64_t longest = 0;
    for (size_t i = 0; i < members_.size(); ++i) longest = std::max(longest, rows_of(i));
    return longest;
  }

  /// Writes what the rings of all members hold, the sinks first: a ring takes runs of positions.
  void fill(RingRows& ring) const {
    std::vector<std::vector<at::Tensor>> ordered;
    for (const auto* member : members_) {
      const Rows rows = member->ring.read();
      const auto order = rows.positions.at()[0].argsort();
      auto& own = ordered.emplace_back();
      for (const auto& stream : rows.streams) own.push_back(stream.index_select(2, order));
    }
    std::vector<Span> sinks, window;
    for (size_t i = 0; i < members_.size(); ++i) {
      const int64_t length = (*places_)[i].span(0).first;
      const int64_t rows = rows_of(i), first = std::min(spec_.sinks, length);
      sinks.push_back({0, first});
      window.push_back({length - (rows - first), rows - first});
    }
    write_runs(ring, ordered, sinks, std::vector<int64_t>(members_.size(), 0));
    std::vector<int64_t> behind_sinks;
    for (const Span& span : sinks) behind_sinks.push_back(span.count);
    write_runs(ring, ordered, window, behind_sinks);
  }

  /// ordered: of each member the streams; those of its rows that begin at `from` have `spans`.
  static void write_runs(RingRows& ring,
                         const std::vector<std::vector<at::Tensor>>& ordered,
                         const std::vector<Span>& spans,
                         const std::vector<int64_t>& from) {
    const int64_t longest = std::ranges::max(spans, {}, &Span::count).count;
    if (longest == 0) return;
    const auto batch = static_cast<int64_t>(ordered.size());
    std::vector<at::Tensor> fresh;
    for (size_t s = 0; s < ordered[0].size(); ++s) {
      const auto& like = ordered[0][s];
      auto all = torch::zeros({batch, like.size(1), longest, like.size(3)}, like.options());
      for (size_t i = 0; i < ordered.size(); ++i)
        all[static_cast<int64_t>(i)]
            .narrow(1, 0, spans[i].count)
            .copy_(ordered[i][s][0].narrow(1, from[i], spans[i].count));
      fresh.push_back(std::move(all));
    }
    ring.write(Positions::ragged(spans, ordered[0][0].device()), std::move(fresh));
  }

  LayerSpec spec_;
  std::vector<WindowAndState*> members_;
  Places places_;
  WindowAndState* together_ = nullptr;
};

/// All of `members` as `Kind`, or none.
template <class Kind>
std::vector<Kind*> all_as(const std::vector<Memory*>& members) {
  std::vector<Kind*> out;
  for (auto* member : members) {
    if (auto* own = dynamic_cast<Kind*>(member)) out.push_back(own);
  }
  if (out.size() != members.size()) out.clear();
  return out;
}

}  // namespace

std::unique_ptr<StackedStates> stack_states(const LayerSpec& spec,
                                            const std::vector<Memory*>& members,
                                            const Places& places) {
  if (auto states = all_as<StateMemory>(members); !states.empty())
    return std::make_unique<States>(std::move(states), places);
  auto windows = all_as<WindowAndState>(members);
  const bool usable = !windows.empty() && std::ranges::none_of(windows, &WindowAndState::empty);
  if (usable) return std::make_unique<Windows>(spec, std::move(windows), places);
  throw Error(ExitCode::kInternal, {"memories of kind \"" + spec.kind + "\" that cannot be stacked",
                                    "KvCache", "step through each sequence alone"});
}

}  // namespace kvsmith
