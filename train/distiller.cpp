#include "train/distiller.h"

#include <vector>

#include <torch/types.h>

#include "checkpoints/adapter_source.h"
#include "core/error.h"
#include "core/text.h"
#include "models/weights_hash.h"
#include "ops/layers.h"
#include "ops/losses.h"
#include "train/vocabulary.h"

namespace kvsmith {
namespace {

/// Hidden states of whole texts, and in `mixed` what came out of the mixer of each layer.
at::Tensor run(DecoderImpl& model,
               const at::Tensor& tokens,
               const Positions& positions,
               std::vector<at::Tensor>* mixed) {
  auto cache = model.make_transient();
  if (!mixed) return model.step(tokens, positions, cache);
  mixed->assign(static_cast<size_t>(model.graph().size()), {});
  const DecoderImpl::Observation observation(model, [mixed](const MixerPass& pass) {
    (*mixed)[static_cast<size_t>(pass.layer)] = pass.output;
  });
  return model.step(tokens, positions, cache);
}

/// Mean over layers of |a - b|^2 / |b|^2.
at::Tensor relative_difference(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  at::Tensor sum;
  for (size_t layer = 0; layer < a.size(); ++layer) {
    const auto wanted = b[layer].to(torch::kFloat);
    accumulate(sum, (a[layer].to(torch::kFloat) - wanted).square().sum() /
                        wanted.square().sum().clamp_min(1e-20));
  }
  return sum / static_cast<double>(a.size());
}

}  // namespace

Distiller::Distiller(const DistillConfig& config,
                     const DecoderImpl& student,
                     const std::string& tokenizer_sha256)
    : config_(config) {
  const LoadedModel loaded =
      load_model(config.teacher, {.type = student.compute_type(), .device = student.device()});
  teacher_ = loaded.model;
  const std::string where = "distill.teacher: " + config.teacher;
  const auto &theirs = teacher_->config(), &ours = student.config();
  fingerprint_ = kvsmith::fingerprint(hash_of_weights(*teacher_), theirs);
  if (!config.cache.empty())
    cache_.emplace(config.cache, fingerprint_, config.temperature, config.top_k);
  expect_same_vocabulary(loaded, ours.vocab_size, tokenizer_sha256, where);
  if (config.top_k > ours.vocab_size) {
    throw Error(ExitCode::kConfig, {cat(config.top_k, " of ", ours.vocab_size, " token ids"),
                                    "distill.top_k", "set 0 to learn from all"});
  }
  const bool alike =
      theirs.num_hidden_layers == ours.num_hidden_layers && theirs.hidden_size == ours.hidden_size;
  if (config.mixer_loss == 0 || alike) return;
  throw Error(ExitCode::kConfig,
              {cat("has ", theirs.num_hidden_layers, " layers of width ", theirs.hidden_size,
                   ", the model ", ours.num_hidden_layers, " of ", ours.hidden_size),
               where,
               "outputs of layers can only be compared between equal shapes: set "
               "distill.mixer_loss = 0"});
}

BatchLoss Distiller::loss(DecoderImpl& student, const Batch& batch) {
  const auto device = student.device();
  const auto tokens = tensor_of(batch.tokens, batch, device),
             targets = tensor_of(batch.targets, batch, device);
  const Positions positions = positions_of(batch, device);
  const bool compares = config_.mixer_loss > 0;
  std::vector<at::Tensor> wanted, given;
  Teaching teaching{.hidden = {},
                    .weight = teacher_->head_weight(),
                    .temperature = config_.temperature,
                    .share = config_.weight};
  const auto ask = [&] {
    return run(*teacher_, tokens, positions, compares ? &wanted : nullptr).flatten(0, 1);
  };
  const auto ask_top = [&] {
    return top_tokens(ask(), teaching.weight, config_.temperature, config_.top_k);
  };
  {
    const torch::NoGradGuard no_grad;
    if (config_.top_k == 0) {
      teaching.hidden = ask();
    } else {
      teaching.top = cache_ ? cache_->expected(tokens, positions, ask_top) : ask_top();
    }
  }
  const auto hidden = run(student, tokens, positions, compares ? &given : nullptr).flatten(0, 1);
  const auto parts =
      linear_distillation(hidden, student.head_weight(), targets.flatten(), teaching);
  BatchLoss out{.total = parts.total,
                .shown = parts.cross_entropy,
                .figures = {{"distillation_kl", parts.divergence}}};
  if (compares) {
    // a sum over targets, as the rest
    const auto difference = relative_difference(given, wanted) * batch.target_count;
    out.total = out.total + difference * config_.mixer_loss;
    out.figures.emplace_back("mixer_loss", difference.detach());
  }
  return out;
}

}  // namespace kvsmith
