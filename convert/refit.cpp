#include "convert/refit.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>
#include <utility>

#include <torch/types.h>

#include "convert/attention_weights.h"
#include "convert/fit.h"
#include "ops/layers.h"

namespace kvsmith {
namespace {

/// Whole windows, or one shorter one: [windows, context] int64.
at::Tensor windows_of(const std::vector<int32_t>& ids, int64_t context) {
  const auto count = static_cast<int64_t>(ids.size());
  const int64_t width = std::min(context, count), rows = count / width;
  return torch::tensor(ids, torch::kLong).narrow(0, 0, rows * width).view({rows, width});
}

void run(DecoderImpl& model, const at::Tensor& tokens) {
  auto cache = model.make_transient();
  model.step(tokens, Positions::range(0, tokens.size(1), tokens.device()), cache);
}

double energy(const at::Tensor& x) { return x.square().sum().item<double>(); }

/// D such that x + x D is near `wanted`, [width, width], and the shares of |wanted|^2 that are
/// missed without and with it, over the last tenth of rows, that it is not fitted to. Undefined
/// where nothing is better than what there is. x, wanted: [rows, width] fp64.
struct Correction {
  at::Tensor matrix;
  double before = 0, after = 0;
};

Correction correction(const at::Tensor& x, const at::Tensor& wanted) {
  constexpr std::array<double, 5> kShares = {1e-4, 1e-3, 1e-2, 1e-1, 1};
  const int64_t rows = x.size(0), held_out = std::max<int64_t>(rows / 10, 1);
  const auto fitted = [&](const at::Tensor& all) { return all.narrow(0, 0, rows - held_out); };
  const auto rest = [&](const at::Tensor& all) { return all.narrow(0, rows - held_out, held_out); };
  const auto missing = wanted - x;
  const double whole = std::max(energy(rest(wanted)), 1e-300);
  Correction out{.matrix = {}, .before = energy(rest(missing)) / whole};
  out.after = out.before;
  if (rows == held_out) return out;
  const auto gram = torch::matmul(fitted(x).t(), fitted(x));
  const auto cross = torch::matmul(fitted(x).t(), fitted(missing));
  for (const double share : kShares) {
    const auto matrix = torch::cholesky_solve(cross, torch::linalg_cholesky(steadied(gram, share)));
    const double missed = energy(rest(missing) - torch::matmul(rest(x), matrix)) / whole;
    if (missed < out.after) {
      out.after = missed;
      out.matrix = matrix;
    }
  }
  return out;
}

class Refit {
 public:
  Refit(DecoderImpl& source, DecoderImpl& model, at::Tensor tokens)
      : model_(model),
        tokens_(std::move(tokens)),
        wanted_(static_cast<size_t>(model.graph().size())) {
    const DecoderImpl::Observation observation(source, [&](const MixerPass& pass) {
      auto& wanted = wanted_[static_cast<size_t>(pass.layer)];
      wanted = is_normed() ? pass.output : pass.residual + pass.output;
    });
    run(source, tokens_);
    for (auto& [name, tensor] : named_parameters(model)) parameters_[name] = tensor;
  }

  RefitErrors round() {
    errors_ = {};
    const DecoderImpl::Observation observation(model_, [&](const MixerPass& pass) { fit(pass); });
    run(model_, tokens_);
    const auto layers = static_cast<double>(wanted_.size());
    return {errors_.before / layers, errors_.after / layers};
  }

 private:
  /// A norm takes the size of what attention gives before the residual stream gets it.
  bool is_normed() const { return model_.config().sandwich_norm; }

  void fit(const MixerPass& pass) {
    const auto flat = [](const at::Tensor& x) { return x.flatten(0, 1).to(torch::kDouble); };
    const auto& wanted = wanted_[static_cast<size_t>(pass.layer)];
    const auto goal = is_normed() ? wanted : wanted - pass.residual;
    const auto found = correction(flat(pass.output), flat(goal));
    errors_.before += found.before;
    errors_.after += found.after;
    if (!found.matrix.defined()) return;
    const auto matrix = found.matrix.to(torch::kFloat);
    auto& weight = parameters_.at(mixer_name(pass.layer) + "o_proj.weight");
    weight.add_(torch::matmul(matrix.t(), weight));
    pass.output = pass.output + torch::matmul(pass.output, matrix);
  }

  DecoderImpl& model_;
  at::Tensor tokens_;
  /// Of each layer the residual stream behind its attention, or what is_normed() hands to the norm.
  std::vector<at::Tensor> wanted_;
  std::map<std::string, at::Tensor> parameters_;
  RefitErrors errors_;  ///< sums over layers
};

}  // namespace

RefitErrors refit_outputs(DecoderImpl& source,
                          DecoderImpl& model,
                          const std::vector<int32_t>& ids,
                          int64_t context) {
  constexpr int kCyclicRounds = 3;
  const torch::NoGradGuard no_grad;
  Refit refit(source, model, windows_of(ids, context));
  RefitErrors out = refit.round();
  const bool is_cyclic = std::ranges::any_of(model.graph().slices(), &Slice::is_cyclic);
  for (int round = 1; is_cyclic && round < kCyclicRounds; ++round) out.after = refit.round().after;
  return out;
}

}  // namespace kvsmith
