#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "convert/moments.h"
#include "models/decoder.h"

namespace kvsmith {

/// How keys and values that several heads or layers are to share are made of theirs.
enum class Pooling {
  kFit,   ///< least squares over a calibration text, or over the weights alone without one
  kMean,  ///< the mean of the projections, as in the literature (GQA, arXiv:2305.13245)
};

/// Where a tensor of a converted model comes from.
struct Origin {
  std::string tensor;      ///< or several: "model.layers.3.self_attn.*"
  std::string from;        ///< "fit of 3 heads each of layers 2, 3", "new, in 30 layers"
  bool is_fitted = false;  ///< queries and outputs have been adapted to it
};

struct Conversion {
  Decoder model{nullptr};
  std::vector<Origin> origins;
};

/// Throws Error (78) naming what cannot be converted: `source` has full or sliding layers with keys
/// and values of their own; `target` differs from it in the KV graph only: key/value heads, who
/// reads whose, kinds and windows.
void check_convertible(const DecoderImpl& source, const ModelConfig& target, Pooling pooling);

/// Which pairs of layers moments are needed of, for a target that is convertible.
Moments::Pairs moments_needed(const DecoderImpl& source, const ModelConfig& target);

/// A model of the configuration `target` that computes nearly what `source` does, and exactly that
/// where `target` can hold it. Throws Error (78) as check_convertible().
Conversion convert(const DecoderImpl& source,
                   const ModelConfig& target,
                   const Moments& moments,
                   Pooling pooling,
                   uint64_t seed);

/// The configuration of `source` with what is not the KV graph's: a base to lay a recipe over.
ModelConfig sizes_of(const ModelConfig& source);

}  // namespace kvsmith
