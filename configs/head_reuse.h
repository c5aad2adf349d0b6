#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "configs/kv_graph.h"
#include "configs/model_config.h"

namespace kvsmith {

/// A key/value head that a layer reads from the layer below instead of storing its own (KV-CAR).
struct ReusedHead {
  int64_t layer = 0, head = 0;      ///< of the layer that reads
  bool keys = true, values = true;  ///< what of it

  bool operator==(const ReusedHead&) const = default;
};

/// Reads an item of `reused_heads`: "3:1", "3:1:k" or "3:1:v". None where it is something else.
std::optional<ReusedHead> parse_reused_head(const std::string& text);
/// The item that parse_reused_head() reads.
std::string to_string(const ReusedHead& head);

/// Complains about items of `reused_heads` that cannot be read, name what is not there, or name it
/// twice. A KvGraph can be made when there are none.
void check_reused_heads(const ModelConfig& config, std::vector<KeyProblem>& problems);

/// Why `layer` cannot read single heads of the keys (values) of the layer below; "" where it can.
std::string obstacle_to_reuse(const KvGraph& graph, int64_t layer, bool keys);

/// Complains about reused heads that the layers cannot share.
void check_head_reuse(const ModelConfig& config,
                      const KvGraph& graph,
                      std::vector<KeyProblem>& problems);

}  // namespace kvsmith
