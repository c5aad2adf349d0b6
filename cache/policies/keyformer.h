#pragma once

#include <memory>

#include "cache/retention.h"

namespace kvsmith {

/// Keyformer (arXiv:2403.09054): worth of a row is the sum over queries of
///   exp((x + z) / tau) / sum of the same over all rows that the query sees,
/// where x is the scaled logit and z Gumbel(0, 1), drawn for each (seed, layer, query head, query,
/// row). tau is tau_init for the prompt, which is the first step, and goes to tau_end within
/// tau_tokens tokens after it. Attention itself has neither noise nor temperature.
std::unique_ptr<RetentionPolicy> make_keyformer(const CacheConfig& config, const LayerFacts& facts);

}  // namespace kvsmith
