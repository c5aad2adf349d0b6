#pragma once

#include <cstdint>
#include <vector>

#include "convert/fit.h"

namespace kvsmith {

/// One projection that stands for keys and for values (attention_k_eq_v): key_member ~ common *
/// conj(turn_member) as of SharedKeys, value_member ~ common * readout_member.
struct TiedProjection {
  at::Tensor weight;                 ///< [inputs, width]
  std::vector<at::Tensor> turns;     ///< of each member of the keys, complex [width / 2]
  std::vector<at::Tensor> readouts;  ///< of each member of the values, [width, width]
};

/// Least squares by turns: the projection that costs least for these turns and readouts, then the
/// turns and readouts that cost least for it. Begins with what serves the keys, and where that is
/// zero with what serves the values. Keys and values count alike, each as the share of it all that
/// is lost.
TiedProjection fit_tied(const std::vector<Member>& keys,
                        const std::vector<Member>& values,
                        int64_t owner,
                        const Moments& moments);

}  // namespace kvsmith
