#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cache/retention.h"
#include "cache/row_codec.h"
#include "configs/kv_graph.h"
#include "configs/model_config.h"

namespace kvsmith {

/// One kind of row that a layer remembers, such as its keys.
struct StreamShape {
  size_t index = 0;  ///< among the streams of RowMixer::project()
  int64_t heads = 0, width = 0;
  bool is_turned = false;  ///< remembered after the rotation by its position
};

/// What a layer that owns a memory of rows remembers of each token.
std::vector<StreamShape> stream_shapes(const ModelConfig& config,
                                       const KvGraph& graph,
                                       int64_t layer);

enum class RowPositions { kOriginal, kInCache, kInCacheRaw };  ///< CacheConfig::positions

/// A stream and how it is stored.
struct StoredStream {
  StreamShape shape;
  std::shared_ptr<const RowCodec> codec;
};

/// How one layer's rows are kept.
struct LayerPlan {
  LayerFacts facts;
  std::vector<StoredStream> streams;
  const RetentionKind* retention = nullptr;  ///< null: every row stays
  CacheConfig config;                        ///< of the policy
  int64_t budget = 0;                        ///< rows of a head
  int64_t sinks = 0, recent = 0;             ///< protected rows, first and newest
  RowPositions positions = RowPositions::kOriginal;
  double rope_theta = 0;

  /// Bytes of a row of one head, scales, position and figures included.
  int64_t row_bytes() const;
  int64_t codec_metadata_bytes() const;  ///< of those: scales and zero points
  int64_t index_bytes() const { return retention ? 4 : 0; }
  int64_t figure_bytes() const;
  /// Scores depend on it: keys, latents and the rotated key beside them, values that serve as keys.
  bool is_of_key(const StreamShape& shape) const {
    return shape.index == 0 || shape.is_turned || streams.size() == 1;
  }
  /// Rows that a head keeps of a text of `tokens`, of which the first `prompt` came in one step.
  int64_t rows(int64_t tokens, int64_t prompt = 0) const;
  /// The closed formula: bytes after `tokens` tokens of one sequence.
  int64_t bytes(int64_t tokens, int64_t prompt = 0) const;
};

}  // namespace kvsmith
