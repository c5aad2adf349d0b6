#include "train/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>

#include <torch/types.h>

#include "core/error.h"
#include "core/random.h"
#include "core/text.h"
#include "ops/layers.h"
#include "ops/losses.h"
#include "train/schedule.h"
#include "train/trainable.h"

namespace kvsmith {

at::Tensor tensor_of(const std::vector<int64_t>& values, const Batch& batch, at::Device device) {
  return torch::from_blob(const_cast<int64_t*>(values.data()), {batch.sequences, batch.length},
                          torch::kLong)
      .to(device, torch::kLong, /*non_blocking=*/false, /*copy=*/true);
}

Positions positions_of(const Batch& batch, at::Device device) {
  if (!batch.has_borders) return Positions::range(0, batch.length, device);
  auto segments = torch::from_blob(const_cast<int32_t*>(batch.segments.data()),
                                   {batch.sequences, batch.length}, torch::kInt)
                      .to(device, torch::kInt, false, true);
  return Positions::packed(tensor_of(batch.positions, batch, device), std::move(segments));
}

Trainer::Trainer(const RunConfig& config,
                 Decoder model,
                 BatchStream& batches,
                 std::unique_ptr<Distiller> distiller)
    : config_(config),
      model_(std::move(model)),
      batches_(batches),
      distiller_(std::move(distiller)),
      optimizer_(choose_trainable(*model_, trainable_of(config)), config.train) {
  model_->set_gradient_checkpointing(config.train.gradient_checkpointing);
  model_->keep_auxiliary_losses(!config.train.auxiliary_weights().empty());
}

TokenLoss Trainer::token_loss(const Batch& batch, Distiller* distiller) {
  const auto device = model_->device();
  const auto tokens = tensor_of(batch.tokens, batch, device),
             targets = tensor_of(batch.targets, batch, device);
  const auto positions = positions_of(batch, device);
  if (distiller) return distiller->loss(*model_, tokens, positions, targets);
  auto cache = model_->make_transient();
  const auto hidden = model_->step(tokens, positions, cache);
  const auto sum =
      linear_cross_entropy(hidden.flatten(0, 1), model_->head_weight(), targets.flatten());
  return {sum, sum.detach(), {}, {}};
}

StepReport Trainer::step() {
  const auto start = std::chrono::steady_clock::now();
  const auto& t = config_.train;
  const int64_t micro = t.micro_batch();
  std::vector<Batch> batches;
  int64_t targets = 0;
  for (int64_t i = 0; i < t.batch_size / micro; ++i) {
    batches.push_back(batches_.next());
    targets += batches.back().target_count;
  }
  // Of a step without anything to learn the sums are 0: so are its loss and gradient.
  const auto divisor = static_cast<double>(std::max<int64_t>(1, targets));

  model_->train();
  optimizer_.zero_gradients();
  auto total = torch::zeros({}, torch::dtype(torch::kDouble).device(model_->device()));
  const auto weights = t.auxiliary_weights();
  const auto parts = static_cast<double>(batches.size());  // micro-batches have as many tokens each
  std::map<std::string, at::Tensor> means;
  for (size_t i = 0; i < batches.size(); ++i) {
    // dropout is the only user of the global generator: keyed, so a resumed run draws the same
    torch::manual_seed(
        hash_of(static_cast<uint64_t>(t.seed), "dropout", static_cast<uint64_t>(step_), i));
    const TokenLoss tokens = token_loss(batches[i], distiller_.get());
    auto loss = tokens.total / divisor;
    if (tokens.divergence.defined())
      accumulate(means["distillation_kl"], tokens.divergence.to(torch::kDouble) / divisor);
    if (tokens.mixer_loss.defined())
      accumulate(means["mixer_loss"], tokens.mixer_loss.to(torch::kDouble) / parts);
    const auto auxiliary = model_->take_auxiliary_losses();
    for (const auto& [name, weight] : weights) {
      const auto found = std::ranges::find(auxiliary, name, &AuxiliaryLoss::name);
      if (found == auxiliary.end()) continue;
      loss = loss + found->value * (weight / parts);
      accumulate(means[name], found->value.detach().to(torch::kDouble) / parts);
    }
    loss.backward();
    total += tokens.cross_entropy;
  }

  StepReport report;
  report.learning_rate = learning_rate(t, step_);
  report.loss = total.item<double>() / divisor;
  for (const auto& [name, mean] : means) report.auxiliary.emplace_back(name, mean.item<double>());
  report.grad_norm = optimizer_.clip_gradients(t.max_grad_norm);
  report.skipped = !std::isfinite(report.loss) || !std::isfinite(report.grad_norm);
  if (report.skipped) {
    ++nonfinite_in_a_row_;
    ++skipped_;
  } else {
    nonfinite_in_a_row_ = 0;
    optimizer_.step(report.learning_rate);
  }
  report.step = ++step_;
  report.batch_tokens = t.tokens_per_step();
  report.tokens = tokens_ += report.batch_tokens;
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

double Trainer::validation_loss(const CorpusSplit& split, int64_t max_tokens) {
  const torch::NoGradGuard no_grad;
  const auto& t = config_.train;
  const int64_t micro = t.micro_batch();
  const auto windows = static_cast<int64_t>(split.tokens() - 1) / t.sequence_length;
  const int64_t wanted =
      max_tokens == 0 ? windows : (max_tokens + t.sequence_length - 1) / t.sequence_length;

  model_->eval();
  const BatchOptions options{.length = t.sequence_length};
  double sum = 0;
  int64_t targets = 0;
  for (int64_t first = 0; first < std::min(windows, wanted); first += micro) {
    Batch batch;
    batch.sequences = std::min(micro, std::min(windows, wanted) - first);
    batch.length = t.sequence_length;
    for (int64_t w = first; w < first + batch.sequences; ++w)
      append_window(split, static_cast<uint64_t>(w * t.sequence_length), options, batch);
    sum += token_loss(batch, nullptr).cross_entropy.item<double>();
    targets += batch.target_count;
  }
  if (targets == 0) {
    throw Error(ExitCode::kBadData,
                {cat("nothing is marked as learnt in the first ",
                     std::min(windows, wanted) * t.sequence_length, " tokens of validation"),
                 "train.validate_tokens", "raise it, or give other chats for validation"});
  }
  return sum / static_cast<double>(targets);
}

nlohmann::ordered_json Trainer::state() const {
  return {{"step", step_},
          {"tokens", tokens_},
          {"sequences", batches_.position()},
          {"optimizer_steps", optimizer_.steps()},
          {"nonfinite_in_a_row", nonfinite_in_a_row_},
          {"skipped", skipped_}};
}

void Trainer::restore(const nlohmann::ordered_json& state) {
  step_ = state.at("step").get<int64_t>();
  tokens_ = state.at("tokens").get<int64_t>();
  batches_.seek(state.at("sequences").get<uint64_t>());
  optimizer_.set_steps(state.at("optimizer_steps").get<int64_t>());
  nonfinite_in_a_row_ = state.at("nonfinite_in_a_row").get<int64_t>();
  skipped_ = state.at("skipped").get<int64_t>();
}

}  // namespace kvsmith
