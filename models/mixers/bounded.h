#pragma once

#include <memory>

#include "models/mixer.h"

namespace kvsmith {

/// Attention with a memory of predefined capacity: the first num_sink_tokens tokens and a window
/// exactly, and num_slots slots per key/value head that absorb what leaves the window with learned
/// gates (see ops/slots.h). A layer of the kind that arXiv:2411.15785 asks for, with rules of our
/// own: that paper publishes none that could be implemented.
std::shared_ptr<Mixer> make_bounded(const ModelConfig& config, const KvGraph& graph, int64_t layer);

/// Per key/value head: 2 head_dim elements for each of min(tokens, sinks + window) rows, and
/// 2 head_dim + 1 fp32 numbers for each slot from the first token on.
int64_t bounded_cache_bytes(const ModelConfig& config,
                            const KvGraph& graph,
                            int64_t layer,
                            int64_t tokens,
                            int64_t element_bytes);

MixerCost bounded_cost(const ModelConfig& config,
                       const KvGraph& graph,
                       int64_t layer,
                       int64_t context);

}  // namespace kvsmith
