#pragma once

#include <cstdint>
#include <string_view>

#include <ATen/core/Tensor.h>

namespace kvsmith {

/// Random numbers by counter, for whole tensors: each is a pure function of a key and of what it is
/// for, so that chunks, batches, evictions and devices draw alike.

/// A key for each head of a layer: [heads] int64.
at::Tensor head_keys(int64_t seed, std::string_view purpose, int64_t layer, int64_t heads);

/// Mixes `counter` into `key`, both int64 and broadcast: the finalizer of SplitMix64 (Steele et
/// al., OOPSLA 2014).
at::Tensor mixed(const at::Tensor& key, const at::Tensor& counter);

/// fp32 in (0, 1), 24 random bits each, never 0 or 1.
at::Tensor uniform_of(const at::Tensor& key, const at::Tensor& counter);

/// -log(-log u): Gumbel(0, 1).
at::Tensor gumbel_of(const at::Tensor& key, const at::Tensor& counter);

}  // namespace kvsmith
