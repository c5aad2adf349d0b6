#pragma once

#include <cstdint>
#include <functional>

#include "models/decoder.h"

namespace kvsmith {

/// Runs `inputs`, [batch, seq], token by token through `cache` from its start and shows each
/// position's logits, [batch, vocab_size].
void decode(DecoderImpl& model,
            const at::Tensor& inputs,
            KvCache& cache,
            const std::function<void(int64_t position, const at::Tensor& logits)>& show);

}  // namespace kvsmith
