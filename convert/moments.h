#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "models/decoder.h"

namespace kvsmith {

/// Second moments of what enters the mixers of a model: for layers a and b the mean over tokens of
/// x_a^T x_b, [inputs, inputs] in fp64. With them a linear map from one layer's input to another
/// layer's keys can be fitted without the activations themselves. `inputs` is hidden_size, and one
/// more, always 1, where projections have biases.
class Moments {
 public:
  using Pairs = std::set<std::pair<int64_t, int64_t>>;

  /// Of features that are independent, of variance 1, and the same in every layer: what is fitted
  /// with these looks at weights alone.
  explicit Moments(const ModelConfig& config);
  /// Of a text, `ids`, read in windows of `context` tokens, for these pairs of layers. Throws Error
  /// (65) when it is empty.
  static Moments of(DecoderImpl& model,
                    const std::vector<int32_t>& ids,
                    int64_t context,
                    const Pairs& pairs);

  at::Tensor between(int64_t a, int64_t b) const;

 private:
  int64_t inputs_;
  std::map<std::pair<int64_t, int64_t>, at::Tensor> sums_;  ///< over tokens
  int64_t tokens_ = 0;                                      ///< 0: no text was read
};

}  // namespace kvsmith
