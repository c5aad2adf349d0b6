#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "convert/moments.h"

namespace kvsmith {

/// Several projections that one is to stand in for. All tensors are fp64 on the CPU; a weight is
/// [inputs, width], the transpose of a Linear's.

/// One head's keys or values, as a source model makes them.
struct Member {
  int64_t layer = 0;  ///< whose input it projects
  at::Tensor weight;  ///< [inputs, width]
  /// What an error costs. Of keys: [width / 2], the mean square of the queries in each rotary
  /// plane; of values: [width, width], M where an error e costs e M e^T.
  at::Tensor cost;
};

/// Keys of a common projection: key_member ~ key_common * conj(turn_member), plane by plane, where
/// plane i of a head is the complex number of its elements i and i + width / 2. Scores stay if
/// queries of that member are multiplied by its turn: Re(conj(q) k conj(t)) = Re(conj(q t) k).
/// Multiplication commutes with rotary embedding, so this holds at every position.
struct SharedKeys {
  at::Tensor weight;              ///< [inputs, width]
  std::vector<at::Tensor> turns;  ///< of each member, complex [width / 2]
};

/// The common keys, a projection of what enters layer `owner`, that cost least over the text of
/// `moments`: in each plane the first principal component of what a regression on that input gives
/// of all members.
SharedKeys fit_keys(const std::vector<Member>& members, int64_t owner, const Moments& moments);

/// value_member ~ common * readout_member.
struct SharedSubspace {
  at::Tensor weight;                 ///< [inputs, rank]
  std::vector<at::Tensor> readouts;  ///< of each member, [rank, width]
};

/// The subspace of `rank` dimensions that costs least: reduced-rank regression of all members on
/// the input of layer `owner`. Dimensions beyond those of the input are zero.
SharedSubspace fit_subspace(const std::vector<Member>& members,
                            int64_t owner,
                            int64_t rank,
                            const Moments& moments);

/// Linear regression of a member on the input of `owner`: [inputs, width]. Its own weight where
/// that is its layer.
at::Tensor regressed(const Member& member, int64_t owner, const Moments& moments);

/// A positive semidefinite matrix with `share` of its mean diagonal added to the diagonal, or with
/// enough to be positive definite where it is zero.
at::Tensor steadied(const at::Tensor& matrix, double share);

/// Elements i and i + width / 2 of the last dimension as complex numbers, and back.
at::Tensor to_planes(const at::Tensor& x);
at::Tensor from_planes(const at::Tensor& planes);

}  // namespace kvsmith
