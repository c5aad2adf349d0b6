#include "convert/fit.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include <torch/types.h>

namespace kvsmith {
namespace {

/// The symmetric root of a positive semidefinite matrix, and its inverse.
std::pair<at::Tensor, at::Tensor> root_of(const at::Tensor& matrix) {
  constexpr double kLeast = 1e-9;
  const auto [values, vectors] = torch::linalg_eigh(matrix);
  const double least = std::max(values[-1].item<double>(), 1e-300) * kLeast;
  const auto root = values.clamp_min(least).sqrt();
  return {torch::matmul(vectors * root, vectors.t()), torch::matmul(vectors / root, vectors.t())};
}

constexpr double kUnusedShare = 1e-6;  // a text has directions that it does not use

}  // namespace

at::Tensor steadied(const at::Tensor& matrix, double share) {
  const double mean = matrix.diagonal().mean().item<double>();
  return matrix + torch::eye(matrix.size(0), matrix.options()) * std::max(mean * share, 1e-300);
}

at::Tensor to_planes(const at::Tensor& x) {
  const auto halves = x.unflatten(-1, {2, x.size(-1) / 2});
  return torch::complex(halves.select(-2, 0).contiguous(), halves.select(-2, 1).contiguous());
}

at::Tensor from_planes(const at::Tensor& planes) {
  return torch::cat({torch::real(planes), torch::imag(planes)}, -1);
}

at::Tensor regressed(const Member& member, int64_t owner, const Moments& moments) {
  if (member.layer == owner) return member.weight;
  return torch::cholesky_solve(
      torch::matmul(moments.between(owner, member.layer), member.weight),
      torch::linalg_cholesky(steadied(moments.between(owner, owner), kUnusedShare)));
}

SharedKeys fit_keys(const std::vector<Member>& members, int64_t owner, const Moments& moments) {
  const auto input = moments.between(owner, owner);
  std::vector<at::Tensor> predicted, importance;
  for (const Member& member : members) {
    predicted.push_back(to_planes(regressed(member, owner, moments)));
    importance.push_back(member.cost.clamp_min(1e-12).sqrt());
  }
  const auto weight = torch::stack(importance, 1);                   // [planes, members]
  const auto maps = torch::stack(predicted, 0).permute({2, 1, 0}) *  // [planes, inputs, members]
                    weight.unsqueeze(1);
  const auto covariance =
      torch::matmul(maps.mH(), torch::matmul(input.to(maps.scalar_type()), maps));
  // eigenvalues ascend: the last vector is the first principal component
  auto first = std::get<1>(torch::linalg_eigh(covariance)).select(2, -1);  // [planes, members]
  // any phase serves: one that leaves member 0 unturned, where it has a part in the plane
  const auto reference = first.select(1, 0), size = reference.abs();
  const auto phase = torch::where(size.gt(1e-12), reference.conj() / size.clamp_min(1e-12),
                                  torch::ones_like(reference));
  first = first * phase.unsqueeze(1);

  auto turns = first / weight;
  const auto scale = turns.abs().square().mean(1, true).sqrt();  // queries keep their size
  turns = turns / scale;
  SharedKeys out;
  out.weight =
      from_planes(torch::matmul(maps, (first * scale).unsqueeze(2)).squeeze(2).t().contiguous());
  for (size_t i = 0; i < members.size(); ++i)
    out.turns.push_back(turns.select(1, static_cast<int64_t>(i)).contiguous());
  return out;
}

SharedSubspace fit_subspace(const std::vector<Member>& members,
                            int64_t owner,
                            int64_t rank,
                            const Moments& moments) {
  std::vector<at::Tensor> maps, undo;
  for (const Member& member : members) {
    const auto [root, inverse] = root_of(member.cost);
    maps.push_back(torch::matmul(regressed(member, owner, moments), root));
    undo.push_back(inverse);
  }
  const auto map = torch::cat(maps, 1);  // [inputs, widths of all members]
  // Singular vectors of (root of the moments) * map, by way of the Gram matrix of its rows.
  const auto root =
      torch::linalg_cholesky(steadied(moments.between(owner, owner), kUnusedShare)).t();
  const auto seen = torch::matmul(root, map);
  const auto [energy, directions] = torch::linalg_eigh(torch::matmul(seen, seen.t()));
  const int64_t inputs = energy.size(0), kept = std::min(rank, inputs);
  const auto top = directions.narrow(1, inputs - kept, kept);
  const auto strength = energy.narrow(0, inputs - kept, kept)
                            .clamp_min(std::max(energy[-1].item<double>() * 1e-18, 1e-300))
                            .sqrt();
  const auto basis = torch::matmul(seen.t(), top) / strength;  // [widths, kept], orthonormal

  SharedSubspace out;
  out.weight = torch::matmul(map, basis);
  // a projection as large as those it replaces, so that one learning rate suits it and the others
  double size = 0;
  for (const Member& member : members)
    size += member.weight.square().mean().item<double>() / static_cast<double>(members.size());
  const double scale =
      size > 0 ? std::sqrt(size / std::max(out.weight.square().mean().item<double>(), 1e-300)) : 1;
  out.weight = torch::constant_pad_nd(out.weight * scale, {0, rank - kept});
  int64_t first = 0;
  for (size_t i = 0; i < members.size(); ++i) {
    const int64_t width = members[i].weight.size(1);
    const auto readout = torch::matmul(basis.narrow(0, first, width).t(), undo[i]) / scale;
    out.readouts.push_back(torch::constant_pad_nd(readout, {0, 0, 0, rank - kept}));
    first += width;
  }
  return out;
}

}  // namespace kvsmith
