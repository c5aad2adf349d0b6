#include "train/optimizer.h"

#include <cmath>

#include <torch/types.h>

namespace kvsmith {

AdamW::AdamW(std::vector<std::pair<std::string, at::Tensor>> parameters, const TrainConfig& config)
    : config_(config), groups_(2) {
  groups_[0].weight_decay = config.weight_decay;
  groups_[1].weight_decay = 0;
  for (auto& [name, parameter] : parameters) {
    const size_t which = parameter.dim() >= 2 ? 0 : 1;
    Group& group = groups_[which];
    names_.push_back(name);
    places_.emplace_back(which, group.parameters.size());
    group.parameters.push_back(parameter);
    group.exp_avg.push_back(torch::zeros_like(parameter));
    group.exp_avg_sq.push_back(torch::zeros_like(parameter));
  }
}

std::vector<at::Tensor> AdamW::gradients(const Group& group) const {
  std::vector<at::Tensor> out;
  for (const auto& parameter : group.parameters) {
    at::Tensor& gradient = parameter.mutable_grad();
    // of what the loss does not depend on
    if (!gradient.defined()) gradient = torch::zeros_like(parameter);
    out.push_back(gradient);
  }
  return out;
}

void AdamW::step(double learning_rate) {
  const torch::NoGradGuard no_grad;
  ++steps_;
  for (Group& group : groups_) {
    if (group.parameters.empty()) continue;
    const auto count = torch::full({}, static_cast<double>(steps_),
                                   group.parameters[0].options().dtype(torch::kFloat));
    const std::vector<at::Tensor> counts(group.parameters.size(), count);
    at::_fused_adamw_(group.parameters, gradients(group), group.exp_avg, group.exp_avg_sq, {},
                      counts, learning_rate, config_.adam_beta1, config_.adam_beta2,
                      group.weight_decay, config_.adam_eps, /*amsgrad=*/false, /*maximize=*/false);
  }
}

std::vector<std::pair<std::string, at::Tensor>> AdamW::state() const {
  std::vector<std::pair<std::string, at::Tensor>> out;
  for (size_t i = 0; i < names_.size(); ++i) {
    const auto [group, index] = places_[i];
    out.emplace_back("exp_avg." + names_[i], groups_[group].exp_avg[index]);
    out.emplace_back("exp_avg_sq." + names_[i], groups_[group].exp_avg_sq[index]);
  }
  return out;
}

double AdamW::clip_gradients(double max_norm) {
  const torch::NoGradGuard no_grad;
  std::vector<at::Tensor> all;
  for (const Group& group : groups_) {
    for (auto& gradient : gradients(group)) all.push_back(std::move(gradient));
  }
  const double norm = torch::stack(at::_foreach_norm(all)).norm().item<double>();
  // a norm that is not finite leaves the gradients alone: the caller skips the step
  if (max_norm > 0 && std::isfinite(norm) && norm > max_norm)
    at::_foreach_mul_(all, max_norm / (norm + 1e-6));
  return norm;
}

void AdamW::zero_gradients() {
  for (Group& group : groups_) {
    for (auto& parameter : group.parameters) parameter.mutable_grad().reset();
  }
}

}  // namespace kvsmith
