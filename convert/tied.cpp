#include "convert/tied.h"

#include <torch/types.h>

namespace kvsmith {
namespace {

constexpr double kRidge = 1e-9;

/// x -> x * conj(turn) for rows of planes, as a matrix: [width, width].
at::Tensor matrix_of(const at::Tensor& turn) {
  const auto re = torch::diag(torch::real(turn)), im = torch::diag(torch::imag(turn));
  return torch::cat({torch::cat({re, -im}, 1), torch::cat({im, re}, 1)}, 0);
}

/// A member as a map from the common projection: weight ~ common * map, an error costing `cost`.
struct Target {
  at::Tensor weight;  ///< [inputs, width], of what enters the owner
  at::Tensor cost;    ///< [width, width]
  at::Tensor map;     ///< [width, width]
};

std::vector<Target> targets_of(const std::vector<Member>& members,
                               int64_t owner,
                               const Moments& moments) {
  std::vector<Target> out;
  double energy = 0;
  for (const Member& member : members) {
    const auto weight = regressed(member, owner, moments);
    const auto cost =
        member.cost.dim() == 1 ? torch::diag(torch::cat({member.cost, member.cost})) : member.cost;
    const auto covariance =
        torch::matmul(weight.t(), torch::matmul(moments.between(owner, owner), weight));
    energy += (covariance * cost).sum().item<double>();
    out.push_back({weight, cost, {}});
  }
  if (energy > 0)
    for (Target& target : out) target.cost = target.cost / energy;
  return out;
}

/// The common projection for the maps that the targets have.
at::Tensor projection(const std::vector<const Target*>& targets) {
  at::Tensor wanted, weight;
  for (const Target* target : targets) {
    const auto read = torch::matmul(target->cost, target->map.t());
    const auto gram = torch::matmul(target->map, read);
    wanted = wanted.defined() ? wanted + torch::matmul(target->weight, read)
                              : torch::matmul(target->weight, read);
    weight = weight.defined() ? weight + gram : gram;
  }
  const auto factor = torch::linalg_cholesky(steadied(weight, kRidge));
  return torch::cholesky_solve(wanted.t(), factor).t().contiguous();
}

}  // namespace

TiedProjection fit_tied(const std::vector<Member>& keys,
                        const std::vector<Member>& values,
                        int64_t owner,
                        const Moments& moments) {
  constexpr int kRounds = 30;
  const auto input = moments.between(owner, owner);
  auto key_targets = targets_of(keys, owner, moments);
  auto value_targets = targets_of(values, owner, moments);
  std::vector<const Target*> all;
  for (const Target& target : key_targets) all.push_back(&target);
  for (const Target& target : value_targets) all.push_back(&target);

  TiedProjection out;
  out.weight = fit_keys(keys, owner, moments).weight;
  // from columns that are zero no round would leave
  if (const auto unused = out.weight.eq(0).all(0); unused.any().item<bool>()) {
    const auto rest = fit_subspace(values, owner, out.weight.size(1), moments).weight;
    out.weight = torch::where(unused, rest, out.weight);
  }
  for (int round = 0;; ++round) {
    const auto seen = torch::matmul(input, out.weight);
    const auto gram = torch::matmul(out.weight.t(), seen);
    const auto planes = to_planes(out.weight);
    // of each plane: <common, common>, whose conjugate products are real
    const auto size = (planes.conj() * torch::matmul(input.to(planes.scalar_type()), planes))
                          .sum(0)
                          .abs()
                          .clamp_min(1e-300);
    out.turns.clear();
    out.readouts.clear();
    for (Target& target : key_targets) {
      const auto theirs = torch::matmul(input.to(planes.scalar_type()), to_planes(target.weight));
      const auto turn = (planes.conj() * theirs).sum(0).conj() / size;
      target.map = matrix_of(turn);
      out.turns.push_back(turn);
    }
    const auto factor = torch::linalg_cholesky(steadied(gram, kRidge));
    for (Target& target : value_targets) {
      target.map = torch::cholesky_solve(torch::matmul(seen.t(), target.weight), factor);
      out.readouts.push_back(target.map);
    }
    if (round == kRounds) return out;
    out.weight = projection(all);
  }
}

}  // namespace kvsmith
