#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "cache/row_store.h"

namespace kvsmith {

/// The most rows that a head of a sequence has above `limits`, [batch * heads], or its heads
/// together where they share.
int64_t most_above(const RowStore& store, const std::vector<int64_t>& limits, bool share);

/// Which rows of a store stay, by worth. `at`: [batch, heads, rows] int64 positions, -1 where a
/// slot holds nothing; `worth`: the same shape, -inf there.

/// The slot of the row of least worth of each head, of several the one that is longest past:
/// [batch, heads] int64.
at::Tensor slots_of_least_worth(const at::Tensor& at, const at::Tensor& worth);

/// The rows of highest worth of each head, of equal ones the newer, as many as `limits`, [batch,
/// heads, 1] int64, says: [batch, heads, rows] bool, slots that hold nothing possibly among them.
/// With `shared_floor` the heads of a layer share the sum of their limits (AdaKV,
/// arXiv:2407.11550): each has so many rows in any case.
at::Tensor rows_of_highest_worth(const at::Tensor& at,
                                 const at::Tensor& worth,
                                 const at::Tensor& limits,
                                 std::optional<int64_t> shared_floor = {});

}  // namespace kvsmith
