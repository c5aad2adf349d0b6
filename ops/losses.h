#pragma once

#include <ATen/core/Tensor.h>

namespace kvsmith {

/// Losses of next tokens, from hidden states: logits exist for a few thousand tokens at a time and
/// never all at once; gradients are formed with them. Targets of -1 are not learnt.
/// hidden: [tokens, width]; weight: [vocab_size, width]; targets: [tokens] int64.

/// Sum of -log softmax(hidden W^T)[target], a scalar in fp32.
at::Tensor linear_cross_entropy(const at::Tensor& hidden,
                                const at::Tensor& weight,
                                const at::Tensor& targets);

/// log softmax(hidden W^T)[target] of each token in fp32, [tokens]; 0 where there is no target. Its
/// backward pass computes the logits again.
at::Tensor linear_log_probabilities(const at::Tensor& hidden,
                                    const at::Tensor& weight,
                                    const at::Tensor& targets);

/// The likeliest next tokens, likeliest first.
struct TopTokens {
  at::Tensor ids;    ///< [tokens, k] int64
  at::Tensor log_p;  ///< [tokens, k] fp16: log softmax(hidden W^T / temperature) of each
};

/// The `k` likeliest tokens of softmax(hidden W^T / temperature).
TopTokens top_tokens(const at::Tensor& hidden,
                     const at::Tensor& weight,
                     double temperature,
                     int64_t k);

/// What a teacher expects of the same tokens: softmax(hidden W^T / temperature), or where `top` is
/// given only the probabilities of some tokens, and of all others together what they leave.
struct Teaching {
  at::Tensor hidden;  ///< [tokens, teacher_width]
  at::Tensor weight;  ///< [vocab_size, teacher_width]
  TopTokens top = {};
  double temperature = 1;
  double share = 1;  ///< of the divergence from the teacher in the loss
};

/// Sums over the tokens with a target; scalars in fp32.
struct DistillationLoss {
  at::Tensor total;          ///< (1 - share) * cross_entropy + share * temperature^2 * divergence
  at::Tensor cross_entropy;  ///< as linear_cross_entropy(); without gradient
  at::Tensor divergence;     ///< KL(teacher || softmax(hidden W^T / temperature)); no gradient
};

/// Knowledge distillation (arXiv:1503.02531).
DistillationLoss linear_distillation(const at::Tensor& hidden,
                                     const at::Tensor& weight,
                                     const at::Tensor& targets,
                                     const Teaching& teaching);

/// -log softmax(logits)[target] per token, in fp32. logits: [tokens, vocab_size] -> [tokens].
at::Tensor token_losses(const at::Tensor& logits, const at::Tensor& targets);

}  // namespace kvsmith
