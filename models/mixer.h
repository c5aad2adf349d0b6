#pragma once

#include <memory>
#include <string>
#include <vector>

#include <torch/nn/module.h>

#include "configs/kv_graph.h"
#include "configs/model_config.h"
#include "models/memory.h"

namespace kvsmith {

/// What a training step leaves to be made small besides the loss on tokens.
struct AuxiliaryLoss {
  std::string name;  ///< of its weight in [train]
  at::Tensor value;  ///< a scalar, a mean over the tokens of the step; undefined: none
};

/// One layer's way of moving information between positions.
class Mixer : public torch::nn::Module {
 public:
  /// Mixes the new tokens with everything in `memory`, and remembers them.
  /// x: [batch, seq, hidden_size] -> same shape. Splitting a text over several calls gives the
  /// result of one call; the contract test holds every mixer to this.
  virtual at::Tensor step(const at::Tensor& x, const Positions& positions, Memory& memory) = 0;

  /// Sets parameters that the general rule of `initialize` does not suit. Called after it.
  virtual void initialize_own() {}

  /// Asks for auxiliary losses, or no longer.
  void keep_auxiliary_loss(bool keep) { keeps_auxiliary_loss_ = keep; }
  /// As the last step left it. None where a kind has none, and after steps that no one asked to
  /// keep it, in evaluation mode or without gradients. Hands it out once.
  virtual AuxiliaryLoss take_auxiliary_loss() { return {}; }

  /// An empty memory for generation.
  virtual std::unique_ptr<Memory> make_cache(const CacheOptions& options) const = 0;
  /// An empty memory for one training step; keeps the autograd graph.
  virtual std::unique_ptr<Memory> make_transient() const = 0;

 protected:
  /// Whether this step is to leave one.
  bool leaves_auxiliary_loss() const;

 private:
  bool keeps_auxiliary_loss_ = false;
};

/// A mixer whose memory has one row per position. Split in three, so that a layer may attend to
/// rows that another layer wrote.
class RowMixer : public Mixer {
 public:
  /// The rows to remember for x: each [batch, kv_heads, seq, width], or undefined where no layer
  /// reads them. Only of a layer that owns a memory.
  virtual std::vector<at::Tensor> project(const at::Tensor& x, const Positions& positions) = 0;
  /// What readers attend to, where that is not what is remembered: lives for one step only.
  virtual Rows expand(Rows remembered) { return remembered; }
  /// x: [batch, seq, hidden_size] -> same shape. `rows` are those of the layers that it reads.
  virtual at::Tensor attend(const at::Tensor& x, const Positions& positions, const Rows& rows) = 0;

  at::Tensor step(const at::Tensor& x, const Positions& positions, Memory& memory) override;
  std::unique_ptr<Memory> make_cache(const CacheOptions& options) const override;
  std::unique_ptr<Memory> make_transient() const override;
};

/// What one mixer has and does in a text of `context` tokens.
struct MixerCost {
  int64_t matrices = 0;          ///< parameters that are multiplied once a token
  int64_t vectors = 0;           ///< other parameters
  int64_t activations = 0;       ///< elements a token that the backward pass needs; compute type
  int64_t fp32_activations = 0;  ///< besides them, in fp32 whatever the compute type
  double mixing_flops = 0;  ///< operations a token besides the matrices: scores, values, states
};

/// What the registry knows of a kind of mixer.
struct MixerKind {
  std::string name;  ///< of `layer_types`
  std::shared_ptr<Mixer> (*make)(const ModelConfig& config, const KvGraph& graph, int64_t layer);
  /// The closed formula for the cache that one layer owns for one sequence after `tokens` tokens,
  /// in bytes; `element_bytes` is the size of a cached element.
  int64_t (*cache_bytes)(const ModelConfig& config,
                         const KvGraph& graph,
                         int64_t layer,
                         int64_t tokens,
                         int64_t element_bytes);
  MixerCost (*cost)(const ModelConfig& config,
                    const KvGraph& graph,
                    int64_t layer,
                    int64_t context);
};

/// Tokens that a query sees on average in a text of `context` tokens.
double mean_tokens_seen(const LayerSpec& spec, int64_t context);

/// Every kind there is. A new one is a file in models/mixers and a line here.
const std::vector<MixerKind>& mixer_kinds();
const MixerKind& mixer_kind(const std::string& name);

/// Bytes that the cache of one sequence of `tokens` tokens must occupy, from the config alone.
int64_t kv_cache_bytes(const ModelConfig& config, int64_t tokens, int64_t element_bytes);
/// The same of one layer; 0 where it owns no memory.
int64_t layer_cache_bytes(const ModelConfig& config,
                          const KvGraph& graph,
                          int64_t layer,
                          int64_t tokens,
                          int64_t element_bytes);

}  // namespace kvsmith
