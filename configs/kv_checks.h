#pragma once

#include <string>
#include <vector>

#include "configs/kv_graph.h"
#include "configs/model_config.h"

namespace kvsmith {

/// Notes what does not hold.
struct Expect {
  std::vector<KeyProblem>& problems;

  void operator()(bool good, const std::string& key, const std::string& text) const {
    if (!good) problems.push_back({key, text});
  }
};

/// Complains about layers that read what another layer does not keep, or not any more.
void check_edges(const KvGraph& graph, std::vector<KeyProblem>& problems);

/// Complains about sizes that layers of their kind cannot have, and options that exclude each
/// other.
void check_options(const ModelConfig& config,
                   const KvGraph& graph,
                   std::vector<KeyProblem>& problems);

}  // namespace kvsmith
