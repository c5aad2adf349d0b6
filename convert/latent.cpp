#include "convert/latent.h"

#include <algorithm>
#include <cmath>

#include <torch/types.h>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

/// Radians a token that each rotary plane of a head turns.
at::Tensor frequencies(int64_t width, double theta) {
  if (theta == 0) return torch::zeros({width / 2}, torch::kDouble);
  return torch::pow(torch::full({width / 2}, theta, torch::kDouble),
                    -2.0 * torch::arange(width / 2, torch::kDouble) / static_cast<double>(width));
}

/// Mean over distances of e^(-i w distance) for frequencies w: what one that stands still can know
/// of one that turns. Distances are spread evenly in their logarithm, as attention is.
at::Tensor mean_rotation(const at::Tensor& frequency) {
  constexpr double kFarthest = 1024;
  constexpr int64_t kSamples = 4096;
  const auto distance = torch::linspace(0, std::log(kFarthest), kSamples, torch::kDouble).exp();
  const auto angle = torch::outer(frequency, distance);
  return torch::complex(angle.cos(), -angle.sin()).mean(1);
}

/// Which planes of a head are folded into which of a narrower rotary key: each into the one whose
/// frequency is nearest (FreqFold of TransMLA, arXiv:2502.07864).
struct Folding {
  at::Tensor into;        ///< [planes] int64: plane of the narrow key
  at::Tensor place;       ///< [planes] int64: among those that are folded into the same
  at::Tensor drift;       ///< complex [planes]: mean_rotation
  at::Tensor fold_drift;  ///< the same of the plane that each is folded into
  at::Tensor coherence;   ///< mean_rotation as seen from the plane that each is folded into
  int64_t narrow_planes = 0;

  Folding(int64_t width, int64_t narrow_width, double theta) : narrow_planes(narrow_width / 2) {
    const auto frequency = frequencies(width, theta), narrow = frequencies(narrow_width, theta);
    into = theta == 0  // all are alike
               ? torch::arange(width / 2, torch::kLong).mul(narrow_width).div(width, "floor")
               : (frequency.unsqueeze(1) - narrow).abs().argmin(1);
    const auto folded_frequency = narrow.index_select(0, into);
    drift = mean_rotation(frequency);
    fold_drift = mean_rotation(folded_frequency);
    coherence = mean_rotation(frequency - folded_frequency);
    place = into.unsqueeze(1).eq(into).tril(-1).sum(1);
  }

  int64_t largest() const { return place.max().item<int64_t>() + 1; }
  /// The sum over what is folded together: [.., planes] -> [.., narrow planes].
  at::Tensor folded(const at::Tensor& planes) const {
    auto sizes = planes.sizes().vec();
    sizes.back() = narrow_planes;
    return torch::zeros(sizes, planes.options()).index_add(-1, into, planes);
  }
  /// Only the `nth` plane of each fold, zero where there are fewer.
  at::Tensor nth(const at::Tensor& planes, int64_t n) const { return folded(planes * place.eq(n)); }
  /// Of each plane what its fold has: the inverse of nth() where `place` is n.
  at::Tensor unfolded(const at::Tensor& narrow) const { return narrow.index_select(-1, into); }
};

/// All that one head of one reader needs.
struct Head {
  const LatentReader* reader = nullptr;
  size_t kv_head = 0;
  at::Tensor turn = {};                             ///< of queries, plane by plane
  at::Tensor key_readout = {}, value_readout = {};  ///< [rank, head_dim]
};

}  // namespace

void check_latent_sizes(const ModelConfig& config, int64_t heads) {
  const auto& sizes = config.latent;
  const auto refuse = [](const std::string& what, const std::string& remedy) {
    throw Error(ExitCode::kConfig, {what, "convert to latent layers", remedy});
  };
  const int64_t width = config.head_dim, widest = 2 * heads * width;
  if (sizes.qk_rope_head_dim % 2 != 0 || sizes.qk_rope_head_dim > width) {
    refuse(cat("qk_rope_head_dim is ", sizes.qk_rope_head_dim),
           cat("choose an even number up to the source's head_dim, ", width));
  }
  if (sizes.qk_nope_head_dim != width || sizes.v_head_dim != width) {
    refuse(cat("qk_nope_head_dim ", sizes.qk_nope_head_dim, " and v_head_dim ", sizes.v_head_dim,
               " differ from the source's head_dim, ", width),
           "leave them at 0");
  }
  if (sizes.q_lora_rank > 0) refuse("q_lora_rank compresses queries", "leave it at 0");
  if (config.attention_bias || config.qk_norm || config.v_norm || config.query_pre_attn_scalar > 0)
    refuse("biases, qk_norm, v_norm and query_pre_attn_scalar have no place in latent layers",
           "convert another model");
  if (sizes.kv_lora_rank > std::min(widest, config.hidden_size)) {
    refuse(cat("kv_lora_rank ", sizes.kv_lora_rank, " is more than the ",
               std::min(widest, config.hidden_size), " dimensions of what it holds"),
           "choose a smaller one");
  }
}

void convert_to_latent(const ModelConfig& config,
                       int64_t owner,
                       double rope_theta,
                       const std::vector<LatentReader>& readers,
                       const Moments& moments,
                       std::map<std::string, at::Tensor>& out) {
  const auto& sizes = config.latent;
  const Folding folding(config.head_dim, sizes.qk_rope_head_dim, rope_theta);
  const int64_t folds = folding.largest();

  const auto seen_by_owner = [&](const Member& member) {
    return Member{owner, regressed(member, owner, moments), member.cost};
  };
  std::vector<Head> heads;
  std::vector<Member> rotary, rests, values;
  for (const auto& reader : readers) {
    const auto input = moments.between(reader.layer, reader.layer);
    for (size_t head = 0; head < reader.attention.keys.size(); ++head) {
      heads.push_back({.reader = &reader, .kv_head = head});
      const auto& key = reader.attention.keys[head];
      const auto cost = reader.attention.key_cost(head, input);
      const auto planes = to_planes(key) * folding.coherence;
      for (int64_t n = 0; n < folds; ++n)
        rotary.push_back({reader.layer, from_planes(folding.nth(planes, n)), folding.nth(cost, n)});
      rests.push_back(seen_by_owner({reader.layer, key, torch::diag(torch::cat({cost, cost}))}));
      values.push_back(seen_by_owner(
          {reader.layer, reader.attention.values[head], reader.attention.value_cost(head)}));
    }
  }

  // An error of keys and one of values count by their share of all keys and all values; one of keys
  // more, since refitted outputs make good part of one of values. (SmolLM2 at rank 128 + 32 has
  // perplexity 88, 73 and 74 with 1, 3 and 8.)
  constexpr double kOfKeys = 3;
  const auto energy = [&](const std::vector<Member>& members) {
    double sum = 0;
    for (const auto& member : members) {
      const auto covariance = torch::matmul(
          member.weight.t(), torch::matmul(moments.between(owner, owner), member.weight));
      sum += (covariance * member.cost).sum().item<double>();
    }
    return std::max(sum, 1e-300);
  };
  const double balance = kOfKeys * energy(values) / energy(rests);  // with the rotary part
  const SharedKeys shared = fit_keys(rotary, owner, moments);
  const auto common = folding.unfolded(to_planes(shared.weight)) * folding.fold_drift;
  for (size_t i = 0; i < heads.size(); ++i) {
    auto& turn = heads[i].turn;
    turn = torch::zeros_like(folding.drift);
    for (int64_t n = 0; n < folds; ++n) {
      const auto& of_fold = shared.turns[i * static_cast<size_t>(folds) + static_cast<size_t>(n)];
      turn = turn + folding.unfolded(of_fold) * folding.place.eq(n);
    }
    const auto rest = to_planes(rests[i].weight) * folding.drift - common * turn.conj();
    rests[i].weight = from_planes(rest);
  }

  std::vector<Member> all;
  for (auto& rest : rests) all.push_back({rest.layer, rest.weight, rest.cost * balance});
  all.insert(all.end(), values.begin(), values.end());
  const SharedSubspace latent = fit_subspace(all, owner, sizes.kv_lora_rank, moments);
  for (size_t i = 0; i < heads.size(); ++i) {
    heads[i].key_readout = latent.readouts[i];
    heads[i].value_readout = latent.readouts[heads.size() + i];
  }

  const int64_t width = config.hidden_size;
  if (sizes.latent_norm) {  // the scale of the latents, as far as one number can keep it
    const auto moment = torch::matmul(latent.weight.t(),
                                      torch::matmul(moments.between(owner, owner), latent.weight));
    out[mixer_name(owner) + "kv_a_layernorm.weight"] =
        torch::full({sizes.kv_lora_rank}, moment.diagonal().mean().sqrt().item<double>());
  }
  write_projection(out, mixer_name(owner) + "kv_a_proj_with_mqa", {latent.weight, shared.weight},
                   width);
  // the softmax divides by the root of a wider key than before
  const double widened =
      std::sqrt(static_cast<double>(sizes.qk_nope_head_dim + sizes.qk_rope_head_dim) /
                static_cast<double>(config.head_dim));
  for (const auto& reader : readers) {
    std::vector<at::Tensor> queries, expanded;
    for (const Head& head : heads) {
      if (head.reader != &reader) continue;
      for (const size_t query : reader.attention.readers(head.kv_head)) {
        const auto planes = to_planes(reader.attention.queries[query]);
        queries.push_back(reader.attention.queries[query] * widened);
        queries.push_back(from_planes(folding.folded(planes * head.turn)) * widened);
        expanded.push_back(head.key_readout);
        expanded.push_back(head.value_readout);
      }
    }
    const std::string name = mixer_name(reader.layer);
    write_projection(out, name + "q_proj", queries, width);
    write_projection(out, name + "kv_b_proj", expanded, sizes.kv_lora_rank);
    write_outputs(out, name, reader.attention);
  }
}

}  // namespace kvsmith
