#include "train/trainer.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <torch/types.h>

#include "core/error.h"
#include "core/random.h"
#include "core/stopwatch.h"
#include "core/text.h"
#include "ops/layers.h"
#include "train/schedule.h"
#include "train/trainable.h"

namespace kvsmith {

Trainer::Trainer(const RunConfig& config,
                 Decoder model,
                 BatchStream& batches,
                 std::unique_ptr<Objective> objective)
    : config_(config),
      model_(std::move(model)),
      batches_(batches),
      objective_(std::move(objective)),
      optimizer_(choose_trainable(*model_, trainable_of(config)), config.train) {
  model_->set_gradient_checkpointing(config.train.gradient_checkpointing);
  model_->keep_auxiliary_losses(!config.train.auxiliary_weights().empty());
}

StepReport Trainer::step() {
  const Stopwatch watch;
  const auto& t = config_.train;
  const int64_t micro = t.micro_batch();
  std::vector<Batch> batches;
  int64_t count = 0, tokens = 0;
  for (int64_t i = 0; i < t.batch_size / micro; ++i) {
    batches.push_back(batches_.next());
    count += objective_->count(batches.back());
    tokens += batches.back().token_count;
  }
  // Of a step without anything to learn the sums are 0: so are its loss and gradient.
  const auto divisor = static_cast<double>(std::max<int64_t>(1, count));

  model_->train();
  optimizer_.zero_gradients();
  auto total = torch::zeros({}, torch::dtype(torch::kDouble).device(model_->device()));
  const auto weights = t.auxiliary_weights();
  const auto parts = static_cast<double>(batches.size());
  std::map<std::string, at::Tensor> means;
  for (size_t i = 0; i < batches.size(); ++i) {
    // dropout is the only user of the global generator: keyed, so a resumed run draws the same
    torch::manual_seed(
        hash_of(static_cast<uint64_t>(t.seed), "dropout", static_cast<uint64_t>(step_), i));
    const BatchLoss part = objective_->loss(*model_, batches[i]);
    auto loss = part.total / divisor;
    for (const auto& [name, figure] : part.figures)
      accumulate(means[name], figure.to(torch::kDouble) / divisor);
    const auto auxiliary = model_->take_auxiliary_losses();
    for (const auto& [name, weight] : weights) {
      const auto found = std::ranges::find(auxiliary, name, &AuxiliaryLoss::name);
      if (found == auxiliary.end()) continue;
      loss = loss + found->value * (weight / parts);
      accumulate(means[name], found->value.detach().to(torch::kDouble) / parts);
    }
    loss.backward();
    total += part.shown;
  }

  StepReport report;
  report.learning_rate = learning_rate(t, step_);
  report.loss = total.item<double>() / divisor;
  for (const auto& [name, mean] : means) report.auxiliary.emplace_back(name, mean.item<double>());
  report.grad_norm = optimizer_.clip_gradients(t.max_grad_norm);
  report.skipped = !std::isfinite(report.loss) || !std::isfinite(report.grad_norm);
  if (report.skipped) {
    ++nonfinite_in_a_row_;
  } else {
    nonfinite_in_a_row_ = 0;
    optimizer_.step(report.learning_rate);
  }
  report.step = ++step_;
  report.batch_tokens = tokens;
  report.tokens = tokens_ += report.batch_tokens;
  report.seconds = watch.seconds();
  return report;
}

Validation Trainer::validate(const BatchSource& source, int64_t max_tokens) {
  const torch::NoGradGuard no_grad;
  model_->eval();
  const uint64_t sequences = source.sequences_with(max_tokens);
  const auto micro = static_cast<uint64_t>(config_.train.micro_batch());
  Validation sums;
  int64_t count = 0, tokens = 0;
  for (uint64_t first = 0; first < sequences; first += micro) {
    const Batch batch =
        source.make(first, static_cast<int64_t>(std::min(micro, sequences - first)));
    const BatchLoss part = objective_->validation(*model_, batch);
    sums.loss += part.shown.item<double>();
    sums.figures.resize(part.figures.size());
    for (size_t i = 0; i < part.figures.size(); ++i) {
      sums.figures[i].first = part.figures[i].first;
      sums.figures[i].second += part.figures[i].second.item<double>();
    }
    count += objective_->count(batch);
    tokens += batch.token_count;
  }
  if (count == 0) {
    throw Error(ExitCode::kBadData,
                {cat("nothing is marked as learnt in the first ", tokens, " tokens of validation"),
                 "train.validate_tokens", "raise it, or give other chats for validation"});
  }
  sums.loss /= static_cast<double>(count);
  for (auto& [name, figure] : sums.figures) figure /= static_cast<double>(count);
  return sums;
}

nlohmann::ordered_json Trainer::state() const {
  return {{"step", step_},
          {"tokens", tokens_},
          {"sequences", batches_.position()},
          {"optimizer_steps", optimizer_.steps()},
          {"nonfinite_in_a_row", nonfinite_in_a_row_}};
}

void Trainer::restore(const nlohmann::ordered_json& state) {
  step_ = state.at("step").get<int64_t>();
  tokens_ = state.at("tokens").get<int64_t>();
  batches_.seek(state.at("sequences").get<uint64_t>());
  optimizer_.set_steps(state.at("optimizer_steps").get<int64_t>());
  nonfinite_in_a_row_ = state.at("nonfinite_in_a_row").get<int64_t>();
}

}  // namespace kvsmith
