#include "inference/kept_cache.h"

#include <algorithm>
#include <utility>

#include <torch/types.h>

namespace kvsmith {

KeptCache::KeptCache(const Decoder& model, const CacheConfig& config)
    : model_(model),
      plan_(
          config, model->config(), model->compute_type(), model->config().max_position_embeddings),
      exactness_(CacheExactness::of(model->graph(), config)),
      cache_(plan_.make(*model, {.batch = 1})) {}

void KeptCache::return_to_start_of(const std::vector<int32_t>& text) {
  const auto mine = std::ranges::mismatch(text_, text).in1;
  const auto most = static_cast<int64_t>(text.size()) - 1;
  reused_ = std::min(mine - text_.begin(), most);
  const bool is_whole = reused_ == tokens();
  if (reused_ == 0 || !(is_whole ? exactness_.by_chunks : exactness_.rewinds)) {
    cache_ = plan_.make(*model_, {.batch = 1, .initial_rows = most + 1});
    reused_ = 0;
  } else if (!is_whole) {
    cache_.rewind(reused_);
  }
  text_.resize(static_cast<size_t>(reused_));
}

at::Tensor KeptCache::read(const std::vector<int32_t>& text) {
  const torch::InferenceMode inference;
  return_to_start_of(text);
  return step({text.begin() + reused_, text.end()});
}

at::Tensor KeptCache::step(const std::vector<int32_t>& tokens) {
  const torch::InferenceMode inference;
  const auto count = static_cast<int64_t>(tokens.size());
  const auto ids = torch::tensor(std::vector<int64_t>(tokens.begin(), tokens.end()), torch::kLong)
                       .unsqueeze(0)
                       .to(model_->device());
  // of a cache that was left in the middle of a step nothing is used again
  auto seen = std::exchange(text_, {});
  if (seen.empty()) at_once_ = count;
  const auto at = Positions::range(static_cast<int64_t>(seen.size()), count, model_->device());
  const auto hidden = model_->step(ids, at, cache_)[0];
  seen.insert(seen.end(), tokens.begin(), tokens.end());
  text_ = std::move(seen);
  return model_->logits(hidden[count - 1]).cpu();
}

}  // namespace kvsmith
