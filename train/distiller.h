#pragma once

#include <optional>
#include <string>
#include <vector>

#include "checkpoints/load.h"
#include "configs/distill_config.h"
#include "models/decoder.h"
#include "train/teacher_cache.h"

namespace kvsmith {

/// Sums over the targets of a micro-batch, but for `mixer_loss`.
struct TokenLoss {
  at::Tensor total;          ///< what is made small
  at::Tensor cross_entropy;  ///< without gradient
  at::Tensor divergence;     ///< KL from the teacher; undefined without one
  at::Tensor mixer_loss;     ///< mean of layers; undefined where it is not wanted
};

/// A teacher beside the model that learns from it. It is run without gradients and never updated;
/// with distill.cache only on sequences that have not been asked about before.
class Distiller {
 public:
  /// Loads the teacher. Throws Error (78) when it has another vocabulary than `student`, another
  /// tokenizer than `tokenizer_sha256` (empty: unknown), or other layers where their outputs are
  /// compared.
  Distiller(const DistillConfig& config,
            const DecoderImpl& student,
            const std::string& tokenizer_sha256);

  /// Hash of the teacher's weights: a run must go on with the teacher that it began with.
  const std::string& fingerprint() const { return fingerprint_; }

  /// The loss of `student` on tokens [batch, seq] with targets [batch, seq].
  TokenLoss loss(DecoderImpl& student,
                 const at::Tensor& tokens,
                 const Positions& positions,
                 const at::Tensor& targets);

 private:
  DistillConfig config_;
  Decoder teacher_{nullptr};
  std::string fingerprint_;
  std::optional<TeacherCache> cache_;
};

}  // namespace kvsmith
