#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include "configs/kv_graph.h"
#include "configs/model_config.h"
#include "models/memory.h"
#include "models/mixer.h"
#include "models/modules.h"

namespace kvsmith {

/// What passes through the mixer of a layer in one step, all [batch, seq, hidden_size].
struct MixerPass {
  int64_t layer = 0;
  /// What enters the layer; the output, with sandwich_norm behind a norm, is added to it.
  const at::Tensor& residual;
  const at::Tensor& input;  ///< the same after the layer's norm
  at::Tensor& output;       ///< may be replaced
};
using MixerObserver = std::function<void(const MixerPass&)>;

/// A decoder-only language model. Parameters carry the names of Hugging Face's Llama
/// ("model.layers.0.self_attn.q_proj.weight"). Weights are fp32 unless moved; activations have the
/// compute type.
class DecoderImpl : public torch::nn::Module {
 public:
  /// Calls `observer` in every step of `model` while it lives. Layers that are run in several
  /// passes (LCKV) are shown in the last.
  class Observation {
   public:
    Observation(DecoderImpl& model, MixerObserver observer) : model_(model) {
      model_.observer_ = std::move(observer);
    }
    ~Observation() { model_.observer_ = {}; }
    Observation(const Observation&) = delete;
    Observation& operator=(const Observation&) = delete;

   private:
    DecoderImpl& model_;
  };

  /// Leaves parameters uninitialised; see initialize() and checkpoints/.
  explicit DecoderImpl(const ModelConfig& config);

  /// Hidden states of the new tokens after the last norm, for `head_weight()`.
  /// tokens: [batch, seq] int64 -> [batch, seq, hidden_size].
  ///
  /// Layers that read keys computed further up (LCKV, arXiv:2405.10637) are run forward_passes +
  /// backward_passes times, each pass reading what the one before it computed; gradients flow
  /// through the last backward_passes. After n passes the first n tokens are exact, so no more
  /// passes than tokens are made: one token at a time is exact, and so is a chunk of n tokens.
  at::Tensor step(const at::Tensor& tokens, const Positions& positions, KvCache& cache);
  /// Makes steps in training mode and with gradients leave auxiliary losses, or no longer.
  void keep_auxiliary_losses(bool keep);
  /// Those of the last step, each summed over layers, under the names of their weights in [train];
  /// hands them out once. "reconstruction_loss": see models/mixers/autoencoded.h. "kv_loss": of
  /// layers that are read from below, the mean squared difference of their remembered rows (keys
  /// and values, or what stands for them) between the last pass and the one before (LCKV). The
  /// earlier pass has a gradient too where it is one of backward_passes.
  std::vector<AuxiliaryLoss> take_auxiliary_losses();
  /// Replaces forward_passes and backward_passes.
  void set_passes(int64_t forward, int64_t backward);
  /// Whether steps with gradients, which have to begin from nothing, keep only what enters and
  /// leaves each layer and compute the rest again in the backward pass. Such a step leaves its
  /// cache unwritten, and no auxiliary losses.
  void set_gradient_checkpointing(bool on) { gradient_checkpointing_ = on; }
  /// fp32 logits. hidden: [..., hidden_size] -> [..., vocab_size].
  at::Tensor logits(const at::Tensor& hidden) const;
  /// Logits of whole texts, as training sees them: a step from nothing.
  /// tokens: [batch, seq] -> [batch, seq, vocab_size].
  at::Tensor forward(const at::Tensor& tokens);

  KvCache make_cache(const CacheOptions& options) const;
  KvCache make_transient() const;
  /// What readers of each layer attend to, from the whole of a cache: decoded, and with the heads
  /// that the layer reuses; streams are [batch, kv_heads, rows, width]. Nothing of a layer that no
  /// layer reads row by row.
  std::vector<Rows> shown_rows(KvCache& cache) const;

  /// The matrix that turns hidden states into logits: [vocab_size, hidden_size].
  at::Tensor head_weight() const;
  const ModelConfig& config() const { return config_; }
  const KvGraph& graph() const { return graph_; }
  at::Device device() const { return embed_tokens_->weight.device(); }
  at::ScalarType compute_type() const { return compute_type_; }
  void set_compute_type(at::ScalarType type) { compute_type_ = type; }
  int64_t parameter_count() const;

 private:
  struct BlockImpl;
  TORCH_MODULE(Block);
  class Step;

  KvCache memories(const std::function<std::unique_ptr<Memory>(const Mixer&)>& make) const;

  ModelConfig config_;
  KvGraph graph_;
  at::ScalarType compute_type_ = at::kFloat;
  bool gradient_checkpointing_ = false;
  bool keeps_auxiliary_losses_ = false;
  MixerObserver observer_;
  at::Tensor kv_loss_;  ///< of the last step
  Embedding embed_tokens_{nullptr};
  std::vector<Block> blocks_;
  RmsNorm norm_{nullptr};
  Linear lm_head_{nullptr};
};
TORCH_MODULE(Decoder);

/// While it lives, layers that read ahead (LCKV) make so many passes.
class PassesFor {
 public:
  PassesFor(DecoderImpl& model, int64_t forward, int64_t backward)
      : model_(model),
        forward_(model.config().forward_passes),
        backward_(model.config().backward_passes) {
    model.set_passes(forward, backward);
  }
  ~PassesFor() { model_.set_passes(forward_, backward_); }
  PassesFor(const PassesFor&) = delete;
  PassesFor& operator=(const PassesFor&) = delete;

 private:
  DecoderImpl& model_;
  int64_t forward_, backward_;
};

/// The parameter that is the output matrix where the embedding is not.
inline constexpr const char* kOutputMatrix = "lm_head.weight";

/// Names and parameters in registration order; the tensors are the model's own.
std::vector<std::pair<std::string, at::Tensor>> named_parameters(const DecoderImpl& model);

/// Fills every parameter from a generator keyed by (seed, parameter name), so that the values
/// depend on neither order nor architecture of the rest: norms 1, biases 0, matrices normal with
/// initializer_range, those that end a residual branch divided by sqrt(2 * num_hidden_layers)
/// (GPT-2).
void initialize(DecoderImpl& model, uint64_t seed);

}  // namespace kvsmith
