#include "evaluate/decoding.h"

#include <torch/types.h>

namespace kvsmith {

void decode(DecoderImpl& model,
            const at::Tensor& inputs,
            KvCache& cache,
            const std::function<void(int64_t position, const at::Tensor& logits)>& show) {
  for (int64_t t = 0; t < inputs.size(1); ++t) {
    const auto hidden =
        model.step(inputs.narrow(1, t, 1), Positions::range(t, 1, model.device()), cache);
    show(t, model.logits(hidden.select(1, 0)));
  }
}

}  // namespace kvsmith
