#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "models/memory.h"

namespace kvsmith {

/// Which rows a layer kept after each step of a text that was read from its start.
class ReplayLog {
 public:
  /// `kept`: [batch, heads, rows] int64 positions, -1 for none, after the tokens before `end`.
  void record(int64_t end, const at::Tensor& kept);
  /// Who saw whom: [batch, heads, tokens, tokens] bool, rows by query. A query saw what was kept
  /// after the step before its own, and the tokens of its own step up to itself.
  at::Tensor seen() const;

 private:
  struct Step {
    int64_t end;
    at::Tensor kept;
  };
  std::vector<Step> steps_;
};

/// A memory for one pass over a whole text that lets each token see what it saw when the log was
/// made: the oracle of every eviction, and a fast way to score or to train under one.
class ReplayRows final : public RowMemory {
 public:
  explicit ReplayRows(at::Tensor seen) : seen_(std::move(seen)) {}

  Rows read() const override;
  void rewind(const Positions& /*positions*/) override { rows_.clear(); }
  Rows write(const Positions& positions, std::vector<at::Tensor> fresh) override;
  int64_t bytes_used() const override { return rows_.bytes_used(); }
  int64_t bytes_reserved() const override { return rows_.bytes_reserved(); }
  void clear() override { rows_.clear(); }
  std::unique_ptr<Memory> clone() const override { return std::make_unique<ReplayRows>(*this); }

 private:
  TransientRows rows_;
  at::Tensor seen_;  ///< [batch, heads, tokens, tokens] bool
};

}  // namespace kvsmith
