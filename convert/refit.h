#pragma once

#include <cstdint>
#include <vector>

#include "models/decoder.h"

namespace kvsmith {

/// How far what attention gives is from what refit_outputs() fits it to: |error|^2 / |wanted|^2,
/// mean over layers.
struct RefitErrors {
  double before = 0, after = 0;
};

/// Refits the output projection (o_proj) of each layer of a converted model, from the first to the
/// last, each beneath layers that are fitted already: by ridge regression of what would put the
/// residual stream where that of `source` is, on what the layer's attention gives. So a layer also
/// makes good what those before it could not. Where nothing is wrong nothing changes, but for
/// rounding.
///
/// With sandwich_norm, where a norm takes the size of what attention gives before it is added, each
/// layer is fitted to what the attention of the source gives.
///
/// `ids` are read in windows of `context` tokens. A tenth of them is not fitted to: it decides how
/// far each layer may move away from the projection that it has. Layers that are run in several
/// passes (LCKV) are fitted to what the last pass gives, in several rounds. Keeps what is wanted
/// of all layers, num_hidden_layers * tokens * hidden_size * 4 bytes.
RefitErrors refit_outputs(DecoderImpl& source,
                          DecoderImpl& model,
                          const std::vector<int32_t>& ids,
                          int64_t context);

}  // namespace kvsmith
