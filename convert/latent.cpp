#include "convert/latent.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include <torch/types.h>

#include "core/error.h"
#include "core/text.h"

namespace kvsmith {
namespace {

void check_sizes(const ModelConfig& config, int64_t heads) {
  const auto& sizes = config.latent;
  const auto refuse = [](const std::string& what, const std::string& remedy) {
    throw Error(ExitCode::kConfig, {what, "convert to latent layers", remedy});
  };
  const int64_t width = config.head_dim, widest = 2 * heads * width;
  if (sizes.qk_rope_head_dim % 2 != 0 || width % sizes.qk_rope_head_dim != 0) {
    refuse(cat("qk_rope_head_dim ", sizes.qk_rope_head_dim, " does not divide head_dim ", width),
           "its frequencies have to be among those of the source");
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

/// Mean over distances of e^(-i w distance), for each rotary plane: what a key without position can
/// know of one that turns. Distances are spread evenly in their logarithm, as attention is.
at::Tensor mean_rotation(int64_t width, double theta) {
  if (theta == 0) return torch::ones({width / 2}, torch::kComplexDouble);
  constexpr double kFarthest = 1024;
  constexpr int64_t kSamples = 4096;
  const auto distance = torch::linspace(0, std::log(kFarthest), kSamples, torch::kDouble).exp();
  const auto frequency =
      torch::pow(torch::full({width / 2}, theta, torch::kDouble),
                 -2.0 * torch::arange(width / 2, torch::kDouble) / static_cast<double>(width));
  const auto angle = torch::outer(frequency, distance);
  return torch::complex(angle.cos(), -angle.sin()).mean(1);
}

/// All that one head of one reader needs.
struct Head {
  const LatentReader* reader = nullptr;
  size_t kv_head = 0;
  at::Tensor turn = {};                             ///< of queries, for the planes that stay rotary
  at::Tensor key_readout = {}, value_readout = {};  ///< [rank, head_dim]
};

}  // namespace

void convert_to_latent(const ModelConfig& config,
                       int64_t owner,
                       double rope_theta,
                       const std::vector<LatentReader>& readers,
                       const Moments& moments,
                       std::map<std::string, at::Tensor>& out) {
  const auto& sizes = config.latent;
  check_sizes(config, static_cast<int64_t>(readers.size() * readers[0].attention.keys.size()));
  const int64_t stride = config.head_dim / sizes.qk_rope_head_dim;
  const auto kept = [&](const at::Tensor& planes) {
    return planes.slice(-1, 0, std::nullopt, stride);
  };

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
      rotary.push_back({reader.layer, from_planes(kept(to_planes(key))), kept(cost).contiguous()});
      rests.push_back(seen_by_owner({reader.layer, key, torch::diag(torch::cat({cost, cost}))}));
      values.push_back(seen_by_owner(
          {reader.layer, reader.attention.values[head], reader.attention.value_cost(head)}));
    }
  }

  // an error of keys and one of values count by their share of all keys and all values
  const auto energy = [&](const std::vector<Member>& members) {
    double sum = 0;
    for (const auto& member : members) {
      const auto covariance = torch::matmul(
          member.weight.t(), torch::matmul(moments.between(owner, owner), member.weight));
      sum += (covariance * member.cost).sum().item<double>();
    }
    return std::max(sum, 1e-300);
  };
  const double balance = energy(values) / energy(rests);  // before the rotary part is taken out
  const SharedKeys shared = fit_keys(rotary, owner, moments);
  const auto drift = mean_rotation(config.head_dim, rope_theta);
  const auto remains = torch::cat({drift, drift}).abs().square();
  for (size_t i = 0; i < heads.size(); ++i) {
    heads[i].turn = shared.turns[i];
    auto planes = to_planes(rests[i].weight);
    kept(planes).sub_(to_planes(shared.weight) * shared.turns[i].conj());
    rests[i] = {owner, from_planes(planes), rests[i].cost * remains};
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
        queries.push_back(from_planes(planes * drift.conj()) * widened);
        queries.push_back(from_planes(kept(planes) * head.turn) * widened);
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
