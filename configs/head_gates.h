#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "configs/kv_graph.h"

namespace kvsmith {

/// What `kvsmith calibrate --method duo` learns of a model (DuoAttention, arXiv:2410.10819): how
/// much each key/value head needs the rows that lie further back than its sinks and window.
struct HeadGatesFile {
  struct Layer {
    int64_t layer = 0;               ///< one that owns keys and values
    std::vector<double> gates = {};  ///< of each key/value head: 1 needs all rows, 0 none further

    bool operator==(const Layer&) const = default;
  };

  std::string weights;  ///< hash_of_weights(model, torch::kBFloat16): whose gates they are
  /// First and last positions that the streaming side of a head saw while gates were learned.
  int64_t sinks = 0, window = 0;
  int64_t context = 0;        ///< most tokens of a sequence they were learned on
  int64_t steps = 0;          ///< optimizer steps
  std::vector<Layer> layers;  ///< ascending; layers_with_head_gates()

  bool operator==(const HeadGatesFile&) const = default;
};

/// Throws Error: 66 when missing, 65 when it is not such a file, 78 for another version; each names
/// the place, what was found and what is expected.
HeadGatesFile read_head_gates(const std::filesystem::path& path);
/// Replaces `path` by a JSON file; see docs/formats.md.
void write_head_gates(const std::filesystem::path& path, const HeadGatesFile& gates);

/// Why the key/value heads of `layer` have no gates; "" where they have. Gates need all rows of a
/// layer to be remembered by head, and every reader to look at keys and values of this layer alone,
/// without a window of its own. Readers share the gates of the owner.
std::string obstacle_to_head_gates(const KvGraph& graph, int64_t layer);
std::vector<int64_t> layers_with_head_gates(const KvGraph& graph);
/// Throws Error (78), naming `where`, unless there are gates for every head of exactly
/// layers_with_head_gates().
void expect_gates_fit(const HeadGatesFile& gates, const KvGraph& graph, const std::string& where);

}  // namespace kvsmith
