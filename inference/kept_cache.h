#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "cache/cache_plan.h"
#include "cache/exactness.h"
#include "models/decoder.h"

namespace kvsmith {

/// The cache of one text that is continued again and again. What it holds is always what reading
/// the text from its beginning gives: where the method or the architecture does not let a text be
/// read in parts, or where its end changes and cannot be taken back, all of it is read anew.
class KeptCache {
 public:
  /// Shares of `config` are of max_position_embeddings. Throws Error (78) for a cache that the
  /// model cannot have.
  KeptCache(const Decoder& model, const CacheConfig& config);

  /// Reads a text, of which at least the last token is read in any case.
  /// -> [vocab_size] fp32 on the host, the logits after it.
  at::Tensor read(const std::vector<int32_t>& text);
  /// Reads one token more.
  at::Tensor append(int32_t token) { return step({token}); }

  int64_t tokens() const { return static_cast<int64_t>(text_.size()); }
  /// Of the text that was read last, tokens whose rows were there already.
  int64_t reused() const { return reused_; }
  const CacheExactness& exactness() const { return exactness_; }
  const CachePlan& plan() const { return plan_; }
  int64_t bytes_used() const { return cache_.bytes_used(); }
  int64_t bytes_reserved() const { return cache_.bytes_reserved(); }
  /// The closed formula: the most there can be where plan().depends_on_text().
  int64_t bytes_by_formula() const { return plan_.bytes(tokens(), at_once_); }

 private:
  at::Tensor step(const std::vector<int32_t>& tokens);
  /// Leaves the longest start of `text` that the cache can hold, its last token left out.
  void return_to_start_of(const std::vector<int32_t>& text);

  Decoder model_;
  CachePlan plan_;
  CacheExactness exactness_;
  KvCache cache_;
  std::vector<int32_t> text_;  ///< what the cache has seen
  int64_t reused_ = 0;
  int64_t at_once_ = 0;  ///< tokens of the text's first step
};

}  // namespace kvsmith
