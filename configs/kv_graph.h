#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "configs/model_config.h"

namespace kvsmith {

/// One row of the KV graph: how a layer moves information between positions, and whose keys and
/// values it reads.
struct LayerSpec {
  std::string kind;       ///< of `layer_types`
  int64_t k_source = 0;   ///< layer whose keys it reads
  int64_t v_source = 0;   ///< layer whose values it reads
  int64_t kv_heads = 0;   ///< key/value heads of its rows; of latents 1, of grouped ones 2
  int64_t window = 0;     ///< keys a token may see, its own included; 0: all
  int64_t sinks = 0;      ///< first positions that stay visible outside the window
  double rope_theta = 0;  ///< base of the rotary angles; 0: no positions (NoPE)
  bool k_eq_v = false;    ///< its keys are made from its values (attention_k_eq_v)
  /// Heads, ascending, that it takes from the layer below instead of computing them.
  std::vector<int64_t> reused_keys = {}, reused_values = {};

  /// Tokens that a memory of exact rows holds of a text of `tokens`.
  int64_t rows(int64_t tokens) const {
    return window > 0 ? std::min(tokens, window + sinks) : tokens;
  }
  bool reuses_heads() const { return !reused_keys.empty() || !reused_values.empty(); }
  bool operator==(const LayerSpec&) const = default;
};

/// Layers [first, last) that are run together.
struct Slice {
  int64_t first = 0, last = 0;
  bool is_cyclic = false;  ///< some layer reads keys that are computed further up: needs iteration

  bool operator==(const Slice&) const = default;
};

/// Who reads whose keys and values: the per-layer table that a model configuration stands for.
/// One table expresses MHA, cross-layer sharing (CLA arXiv:2405.12981, YOCO arXiv:2405.05254) and
/// layer-condensed KV (LCKV arXiv:2405.10637); see docs/architectures.
class KvGraph {
 public:
  /// `config` is filled in and has no problems.
  explicit KvGraph(const ModelConfig& config);

  const LayerSpec& operator[](int64_t layer) const { return layers_[static_cast<size_t>(layer)]; }
  int64_t size() const { return static_cast<int64_t>(layers_.size()); }

  /// Some layer reads its keys (values): it computes and remembers them, but for reused heads.
  bool keeps_keys(int64_t layer) const { return use(layer).keys; }
  bool keeps_values(int64_t layer) const { return use(layer).values; }
  /// Heads whose keys (values) it computes and remembers.
  int64_t key_heads(int64_t layer) const;
  int64_t value_heads(int64_t layer) const;
  /// Layers that own a memory.
  int64_t owners() const;
  bool is_owner(int64_t layer) const { return key_heads(layer) > 0 || value_heads(layer) > 0; }
  /// Layers whose keys or values `layer` reads, whole or head by head.
  const std::vector<int64_t>& sources(int64_t layer) const { return use(layer).sources; }
  /// The highest layer that reads keys or values of `layer`; -1: none does.
  int64_t last_reader(int64_t layer) const { return use(layer).last_reader; }
  /// It reads a layer above itself, so a token cannot see its own row: row j is seen when j < t.
  bool reads_ahead(int64_t layer) const;

  /// The order of execution. Cyclic slices are the smallest that hold a layer that reads ahead and
  /// everything that it waits for; the rest runs once.
  const std::vector<Slice>& slices() const { return slices_; }
  bool is_cyclic() const;

 private:
  /// Who reads the rows of a layer, and whose it reads.
  struct Use {
    bool keys = false, values = false;  ///< some layer reads them
    int64_t last_reader = -1;
    std::vector<int64_t> sources;
  };
  const Use& use(int64_t layer) const { return uses_[static_cast<size_t>(layer)]; }
  std::vector<Slice> cut() const;

  std::vector<LayerSpec> layers_;
  std::vector<Use> uses_;  ///< of each layer
  std::vector<Slice> slices_;
};

/// Expands `pattern` and short forms into the per-layer lists of `config`, whose scalars are filled
/// in, and returns what makes the resulting table impossible, with layer numbers and a way out.
/// Filling in twice changes nothing.
std::vector<KeyProblem> fill_in_layers(ModelConfig& config);

}  // namespace kvsmith
