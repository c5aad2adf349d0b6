#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cache/kivi_rows.h"
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
  std::optional<KiviOptions> kivi;  ///< instead of the codecs of the streams
  /// LeanKV: codecs of the streams for rows that matter less; empty: no such rows.
  std::vector<std::shared_ptr<const RowCodec>> coarse;
  int64_t element_bytes = 4;                 ///< of activations
  int64_t merged_with = -1;                  ///< MiniCache: the other layer of the pair
  const RetentionKind* retention = nullptr;  ///< null: every row stays
  CacheConfig config;                        ///< of the policy
  int64_t budget = 0;                        ///< rows of a head, mean of heads
  std::vector<int64_t> head_budgets;         ///< of each head; empty: `budget`
  bool shares_heads = false;      ///< AdaKV: rows worth more in one head take from others
  int64_t head_floor = 0;         ///< then: rows that a head has in any case
  bool is_paged = false;          ///< rows lie in blocks, by head
  int64_t sinks = 0, recent = 0;  ///< protected rows, first and newest
  RowPositions positions = RowPositions::kOriginal;
  double rope_theta = 0;

  int64_t budget_of(int64_t head) const {
    return head_budgets.empty() ? budget : head_budgets[static_cast<size_t>(head)];
  }
  /// Bytes of a row of one head, scales, position and figures included.
  int64_t row_bytes(bool is_fine = true) const;
  int64_t codec_metadata_bytes(bool is_fine = true) const;  ///< of those: scales and zero points
  int64_t index_bytes() const { return retention || is_tiered() || holds_pair() ? 4 : 0; }
  /// The lower layer of a pair, which holds the rows of both.
  bool holds_pair() const { return merged_with > facts.layer; }
  bool is_tiered() const { return !coarse.empty(); }
  /// How many rows stay, and how they are stored, depends on the text.
  bool depends_on_text() const { return is_tiered() || merged_with >= 0; }
  int64_t figure_bytes() const;
  /// Scores depend on it: keys, latents and the rotated key beside them, values that serve as keys.
  bool is_of_key(const StreamShape& shape) const {
    return shape.index == 0 || shape.is_turned || streams.size() == 1;
  }
  /// Rows that all heads keep of a text of `tokens`, of which the first `prompt` came in one step.
  int64_t rows(int64_t tokens, int64_t prompt = 0) const;
  /// The closed formula: bytes after `tokens` tokens of one sequence; the most, where
  /// depends_on_text().
  int64_t bytes(int64_t tokens, int64_t prompt = 0) const;
};

/// Of retentions whose number of rows no budget sets: "full" and "leankv".
bool has_own_count(const std::string& retention);
/// The policy of any other retention; null for these. Throws Error (78) with the nearest name.
const RetentionKind* policy_of(const std::string& retention);

/// Whether a layer remembers a row for each token, which codecs and policies can work on.
bool has_rows(const LayerSpec& spec);

/// What `config` means for a layer that owns a memory of rows, but for the budget; none where the
/// layer's own memory does. Throws Error (78) for what cannot be combined.
std::optional<LayerPlan> plan_layer(const CacheConfig& config,
                                    const ModelConfig& model,
                                    const KvGraph& graph,
                                    int64_t layer,
                                    at::ScalarType type);

/// Joins neighbouring layers whose rows are keys and values of one shape, from config.merge_from
/// on. Throws Error (78) where none can be, or with a policy or a codec of several tokens.
void pair_layers(const CacheConfig& config,
                 const KvGraph& graph,
                 std::vector<std::shared_ptr<LayerPlan>>& layers);

/// Refuses (78) a policy on a layer that reads rows of which two owners would keep different ones.
void check_sources(const CacheConfig& config, const KvGraph& graph, int64_t layer);

/// Throws Error (78): what is wrong with cache.`key`, and a way out.
[[noreturn]] void refuse_cache(const std::string& what,
                               const std::string& key,
                               const std::string& remedy);

}  // namespace kvsmith
