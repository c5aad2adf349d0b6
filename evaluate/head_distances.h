#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "checkpoints/load.h"
#include "data/corpus.h"

namespace kvsmith {

/// How far what a key/value head holds is from what the same head of the layer below holds for the
/// same tokens: sum |a - b| over the mean of sum |a| and sum |b|. 0: equal; 2: the most there is.
struct HeadDistance {
  int64_t layer = 0, head = 0;
  std::optional<double> keys;    ///< before the rotation; none where layers cannot share keys
  std::optional<double> values;  ///< none where layers cannot share values
};

struct DistanceOptions {
  std::string split = "valid";
  int64_t context = 2048;  ///< tokens a window
  int64_t max_tokens = 0;  ///< tokens read; 0: the whole split
};

/// Distances of all heads, by layer and head, that layers of the model could take from the layer
/// below if they were autoencoded (`reused_heads`). Throws Error 78 when there are none or when the
/// corpus does not fit the model, 65 when the split has no text.
std::vector<HeadDistance> head_distances(LoadedModel& model,
                                         const Corpus& corpus,
                                         const DistanceOptions& options);

/// The items of `reused_heads` for what is nearer than `threshold`.
std::vector<std::string> heads_within(const std::vector<HeadDistance>& distances, double threshold);

}  // namespace kvsmith
