#pragma once

#include <map>
#include <optional>
#include <string>

#include "checkpoints/load.h"
#include "configs/distill_config.h"
#include "models/decoder.h"
#include "train/objective.h"
#include "train/teacher_cache.h"

namespace kvsmith {

/// A teacher beside the model that learns from it. It is run without gradients and never updated;
/// with distill.cache only on sequences that have not been asked about before.
class Distiller final : public Objective {
 public:
  /// Loads the teacher. Throws Error (78) when it has another vocabulary than `student`, another
  /// tokenizer than `tokenizer_sha256` (empty: unknown), or other layers where their outputs are
  /// compared.
  Distiller(const DistillConfig& config,
            const DecoderImpl& student,
            const std::string& tokenizer_sha256);

  /// Told besides: "distillation_kl", the divergence from the teacher, and where it is wanted
  /// "mixer_loss".
  BatchLoss loss(DecoderImpl& student, const Batch& batch) override;
  /// The cross-entropy alone.
  BatchLoss validation(DecoderImpl& student, const Batch& batch) override {
    return NextTokens().loss(student, batch);
  }
  std::map<std::string, std::string> fingerprints() const override {
    return {{"distill.teacher", fingerprint_}};
  }

 private:
  DistillConfig config_;
  Decoder teacher_{nullptr};
  std::string fingerprint_;
  std::optional<TeacherCache> cache_;
};

}  // namespace kvsmith
