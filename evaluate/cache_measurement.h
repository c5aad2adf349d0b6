#pragma once

#include <cstdint>
#include <vector>

#include "models/decoder.h"

namespace kvsmith {

/// Cache bytes of one sequence, from the storages of the running inference path, beside the
/// formula.
struct CacheMeasurement {
  int64_t tokens = 0;
  int64_t bytes_used = 0, bytes_reserved = 0, bytes_formula = 0;
};

/// The longest text whose cache measure_lengths() measures, in tokens, but for a longer context.
inline constexpr int64_t kLongestMeasured = 8192;

/// What the cache of a model holds when nothing is done to it.
struct CacheLengths {
  std::vector<CacheMeasurement> lengths;  ///< around each window, at and beyond the context
  CacheMeasurement at_8k;
};

/// Measures a cache that holds `tokens` tokens of each of `batch` sequences. Throws Error (70) when
/// used or reserved bytes are not those of the formula.
CacheMeasurement measured(KvCache& cache, const DecoderImpl& model, int64_t batch, int64_t tokens);

/// The same after a prefill of `tokens` tokens. Layers that read ahead make one pass: more change
/// what is in the rows and not how many there are.
CacheMeasurement measure_cache(DecoderImpl& model, int64_t tokens);

/// Measures it at telling_lengths() and at 8k.
CacheLengths measure_lengths(DecoderImpl& model, int64_t context);

/// Lengths at which a cache may change its behaviour: around each window and capacity of the model,
/// the context, and four times the context; none beyond both the context and kLongestMeasured.
std::vector<int64_t> telling_lengths(const KvGraph& graph, int64_t context);

}  // namespace kvsmith
