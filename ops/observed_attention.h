#pragma once

#include <ATen/core/Tensor.h>

#include "ops/attention.h"

namespace kvsmith {

/// As attention(), showing the scores to `visibility.observer`: a slice of queries at a time, so
/// that scores of all queries with all rows never exist together. sinks: as in
/// attention_with_sink_logits(), or undefined.
at::Tensor observed_attention(const at::Tensor& q,
                              const at::Tensor& k,
                              const at::Tensor& v,
                              const Visibility& visibility,
                              const at::Tensor& sinks,
                              double scale);

}  // namespace kvsmith
